"""Small graphs that show how this machine's kernels behave: common operators, each at sizes from a few numbers to
what no cache holds."""

from __future__ import annotations

import torch

from graphopt.analysis.calibration.blocks import blocks
from graphopt.analysis.calibration.samples import Sample, measure_in_turn, measure_nodes
from graphopt.ir import Graph, TensorType
from graphopt.ops.text import parse

ELEMENTWISE = (64, 4096, 65536, 1 << 20)
UNARY = "relu gelu silu sigmoid tanh exp sqrt neg hardswish rsqrt sin cos abs"
NUMBERS = (
    "add.Scalar(%x) {other=1.0}",
    "mul.Scalar(%x) {other=2.0}",
    "div.Scalar(%x) {other=2.0}",
    "sub.Scalar(%x) {other=1.0}",
    "pow.Tensor_Scalar(%x) {exponent=2.0}",
    "hardtanh(%x) {min_val=0.0, max_val=6.0}",
    "clamp(%x) {min=0.0}",
    "dropout(%x) {p=0.1, train=false}",
    "ge.Scalar(%x) {other=0.0}",
)
BINARY = "add.Tensor mul.Tensor sub.Tensor div.Tensor maximum le.Tensor"
ROWS = ((4, 64), (64, 256), (256, 1024))
VIEWS = (
    "aten.permute(%x) {dims=(1, 0)}",
    "aten.transpose.int(%x) {dim0=0, dim1=1}",
    "aten.unsqueeze(%x) {dim=0}",
    "aten.slice.Tensor(%x) {dim=0, start=0, end=2}",
    "aten.select.int(%x) {dim=0, index=0}",
)
NORMS = (
    "aten.softmax.int(%x) {dim=-1}",
    "aten.mean.dim(%x) {dim=(-1,)}",
    "aten.sum.dim_IntList(%x) {dim=(-1,)}",
)
PRODUCTS = (
    (1, 64, 64),
    (16, 64, 64),
    (16, 256, 256),
    (64, 384, 384),
    (128, 768, 768),
    (128, 768, 3072),
    (400, 768, 3072),
)
BATCHED = ((4, 16, 16, 16), (8, 64, 32, 64), (12, 128, 64, 128))
CONVOLUTIONS = (
    (3, 16, 32, 3),
    (16, 32, 32, 1),
    (32, 32, 32, 3),
    (64, 64, 56, 3),
    (64, 256, 28, 1),
    (256, 256, 14, 3),
    (3, 64, 224, 7),
    (512, 512, 7, 3),
)
POOLED = ((8, 16), (32, 32), (64, 56))
HEADS = ((1, 2, 8, 8), (1, 8, 64, 32), (1, 12, 128, 64))


def texts() -> list[str]:
    """The graphs."""
    found = []
    for size in ELEMENTWISE:
        x = f"input %x: f32[{size}]\n"
        found += [f"{x}%y = aten.{name}(%x)\nreturn %y" for name in UNARY.split()]
        found += [f"{x}%y = aten.{call}\nreturn %y" for call in NUMBERS]
        found += [f"{x}input %z: f32[{size}]\n%y = aten.{name}(%x, %z)\nreturn %y" for name in BINARY.split()]
    for rows, columns in ROWS:
        x = f"input %x: f32[{rows}, {columns}]\n"
        found += [f"{x}%y = {call}\nreturn %y" for call in (*VIEWS, *NORMS)]
        found.append(f"{x}%y = aten.reshape(%x) {{shape=({rows * columns},)}}\nreturn %y")
        found.append(f"{x}input %z: f32[{rows}, {columns}]\n%y = aten.cat(%x, %z)\nreturn %y")
        found.append(
            f"{x}parameter %w: f32[{columns}]\nparameter %b: f32[{columns}]\n"
            f"%y = aten.layer_norm(%x, %w, %b) {{normalized_shape=({columns},)}}\nreturn %y"
        )
        found.append(f"parameter %w: f32[{columns}, 64]\ninput %i: i64[{rows}]\n%y = aten.embedding(%w, %i)\nreturn %y")
    for m, k, n in PRODUCTS:
        found.append(f"input %x: f32[{m}, {k}]\nparameter %w: f32[{n}, {k}]\n%y = aten.linear(%x, %w)\nreturn %y")
        found.append(f"input %x: f32[{m}, {k}]\ninput %w: f32[{k}, {n}]\n%y = aten.mm(%x, %w)\nreturn %y")
    for b, m, k, n in BATCHED:
        found.append(f"input %x: f32[{b}, {m}, {k}]\ninput %w: f32[{b}, {k}, {n}]\n%y = aten.matmul(%x, %w)\nreturn %y")
    for channels, out, side, kernel in CONVOLUTIONS:
        pad = kernel // 2
        image = f"input %x: f32[1, {channels}, {side}, {side}]\n"
        call = f"%y = aten.conv2d(%x, %w) {{padding=({pad}, {pad})"
        found.append(f"{image}parameter %w: f32[{out}, {channels}, {kernel}, {kernel}]\n{call}}}\nreturn %y")
        found.append(f"{image}parameter %w: f32[{channels}, 1, 3, 3]\n{call}, groups={channels}}}\nreturn %y")
    for channels, side in POOLED:
        image = f"input %x: f32[1, {channels}, {side}, {side}]\n"
        statistics = "".join(f"parameter %{n}: f32[{channels}]\n" for n in "wbmv")
        norm = "aten.batch_norm(%x, %w, %b, %m, %v) {training=false, momentum=0.1, eps=1e-05, cudnn_enabled=true}"
        found.append(f"{image}{statistics}%y = {norm}\nreturn %y")
        found.append(f"{image}%y = aten.max_pool2d(%x) {{kernel_size=(2, 2)}}\nreturn %y")
        found.append(f"{image}%y = aten.adaptive_avg_pool2d(%x) {{output_size=(1, 1)}}\nreturn %y")
    for b, h, length, width in HEADS:
        heads = "".join(f"input %{n}: f32[{b}, {h}, {length}, {width}]\n" for n in "qkv")
        found.append(f"{heads}%y = aten.scaled_dot_product_attention(%q, %k, %v)\nreturn %y")
    return found


def micro_samples() -> list[Sample]:
    """Measure the small graphs and blocks of models, each by itself and by turns: some seconds."""
    generator = torch.Generator().manual_seed(0)
    graphs = [(graph, _inputs(graph, generator)) for graph in map(parse, (*texts(), *blocks()))]
    samples = [sample for graph, inputs in graphs for sample in measure_nodes(graph, inputs, runs=15).values()]
    return samples + measure_in_turn(graphs, runs=15)


def _inputs(graph: Graph, generator: torch.Generator) -> list[torch.Tensor]:
    made = []
    for value in graph.inputs:
        assert isinstance(value.type, TensorType)
        shape = [int(d) for d in value.type.shape]  # type: ignore[arg-type]
        floating = value.type.dtype.is_floating
        made.append(torch.rand(shape, generator=generator) if floating else torch.zeros(shape, dtype=torch.int64))
    return made
