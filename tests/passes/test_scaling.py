"""Which scales may move: any factors of the channels that the analysis finds leave the function as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.ir import Graph, verify
from graphopt.passes.activation_aware_scaling import ActivationAwareScaling
from graphopt.passes.cross_layer_equalization import CrossLayerEqualization
from graphopt.passes.scaling.moving import apply
from graphopt.passes.scaling.spaces import Spaces
from graphopt.passes.smooth_quant import SmoothQuant
from graphopt.passmanager import Pass, PassContext
from graphopt.rewrite import Rewriter
from graphopt.testing.linear import calls

IMAGE = (
    "input %x: f32[N, 4, 8, 8]",
    "parameter %a: f32[8, 4, 3, 3]",
    "parameter %ab: f32[8]",
    "parameter %d: f32[8, 1, 3, 3]",
    "parameter %e: f32[8, 4, 1, 1]",
    "parameter %c: f32[8, 1, 1]",
    "parameter %q: f32[8]",
    "parameter %z: f32[5, 8, 1, 1]",
    "%y = conv2d(%x, %a, %ab)",
)
TOKENS = (
    "input %x: f32[N, 6, 8]",
    "parameter %g: f32[8]",
    "parameter %h: f32[8]",
    "parameter %d: f32[8, 8]",
    "parameter %e: f32[8, 8]",
    "parameter %t: f32[24, 8]",
    "parameter %z: f32[5, 8]",
    "%y = layer_norm(%x, %g, %h) {normalized_shape=(8,)}",
)
LAST = ("%o = linear(%r, %z)", "return %o")


def image(*lines: str, end: tuple[str, ...] = ("%o = conv2d(%r, %z)", "return %o")) -> str:
    """Lines from %y of 8 channels to %r."""
    return "\n".join((*IMAGE, *lines, *end))


def tokens(*lines: str, end: tuple[str, ...] = LAST) -> str:
    """Lines from %y of 6 positions and 8 channels to %r."""
    return "\n".join((*TOKENS, *lines, *end))


def heads(name: str) -> tuple[str, str]:
    """%q, %k or %v by heads."""
    return (
        f"%{name}1 = reshape(%{name}) {{shape=(-1, 6, 2, 4)}}",
        f"%{name}2 = transpose.int(%{name}1) {{dim0=1, dim1=2}}",
    )


GRAPHS = {
    "relu": (image("%r = relu(%y)"), 8),
    "leaky relu": (image("%l = leaky_relu(%y)", "%r = max_pool2d(%l) {kernel_size=(2, 2)}"), 8),
    "padded mean pooling": (image("%r = avg_pool2d(%y) {kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)}"), 8),
    "prelu": (image("%r = prelu(%y, %q)"), 8),
    "depthwise": (image("%p = relu(%y)", "%r = conv2d(%p, %d) {groups=8, padding=(1, 1)}"), 16),
    "groups": (image("%r = conv2d(%y, %e) {groups=2}"), 16),
    "transposed": (image("%r = conv_transpose2d.input(%y, %e) {groups=2}"), 16),
    "residual": (image("%p = relu(%y)", "%s = add.Tensor(%p, %y)", "%r = relu(%s)"), 8),
    "a sum with what is stored": (image("%r = add.Tensor(%y, %c)"), 8),
    "a vector times": (image("%r = mul.Tensor(%y, %c)"), 16),
    "gated": (
        image(
            "%s = sigmoid(%x)",
            "%t = mean.dim(%s) {dim=(1, 2, 3), keepdim=true}",
            "%r = mul.Tensor(%t, %y)",
        ),
        8,
    ),
    "parts": (
        image("%p, %s = split_with_sizes(%y) {split_sizes=(2, 6), dim=1}", "%r = cat(%s, %p) {dim=1}"),
        8,
    ),
    "a part": (
        image(
            "parameter %f: f32[5, 3, 1, 1]",
            "%r = slice.Tensor(%y) {dim=1, start=1, end=7, step=2}",
            end=("%o = conv2d(%r, %f)", "return %o"),
        ),
        8,
    ),
    "flattened": (
        image(
            "parameter %f: f32[5, 72]",
            "%p = max_pool2d(%y) {kernel_size=(2, 2)}",
            "%r = flatten.using_ints(%p) {start_dim=1}",
            end=("%o = linear(%r, %f)", "return %o"),
        ),
        8,
    ),
    "mean over the image": (
        image("parameter %f: f32[5, 8]", "%r = mean.dim(%y) {dim=(2, 3)}", end=("%o = linear(%r, %f)", "return %o")),
        8,
    ),
    "channels last": (
        image(
            "parameter %f: f32[5, 8]", "%r = permute(%y) {dims=(0, 2, 3, 1)}", end=("%o = linear(%r, %f)", "return %o")
        ),
        8,
    ),
    "padded by hand": (image("%r = constant_pad_nd(%y) {pad=(1, 1, 1, 1)}"), 8),
    "resized": (image("%r = upsample_nearest2d(%y) {output_size=(12, 12)}"), 8),
    "norm": (tokens("%r = contiguous(%y)"), 8),
    "rms norm": (tokens("%r = rms_norm(%x, %g) {normalized_shape=(8,)}"), 8),
    "one norm and one weight, two layers": (
        tokens("%p = linear(%y, %d)", "%s = silu(%p)", "%q = linear(%y, %d)", "%r = mul.Tensor(%s, %q)"),
        8,
    ),
    "gated layers": (
        tokens("%p = linear(%y, %d)", "%s = silu(%p)", "%q = linear(%y, %e)", "%r = mul.Tensor(%s, %q)"),
        16,
    ),
    "stored matrices": (tokens("%p = matmul(%y, %d)", "%r = relu(%p)"), 16),
    "addmm": (
        tokens(
            "input %w: f32[N, 8]",
            "parameter %b: f32[8]",
            "%p = addmm(%b, %w, %d)",
            "%r = mm(%p, %e)",
            end=("%o = sigmoid(%r)", "return %o"),
        ),
        16,
    ),
    "table": (tokens("input %i: i64[N, 6]", "%r = embedding(%t, %i)"), 16),
    "attention": (
        tokens(
            "%p = linear(%y, %t)",
            "%q, %k, %v = split_with_sizes(%p) {split_sizes=(8, 8, 8), dim=-1}",
            *(line for name in "qkv" for line in heads(name)),
            "%s = scaled_dot_product_attention(%q2, %k2, %v2)",
            "%s1 = transpose.int(%s) {dim0=1, dim1=2}",
            "%r = reshape(%s1) {shape=(-1, 6, 8)}",
        ),
        16,
    ),
    "attention, written out": (
        tokens(
            "%v = linear(%y, %d)",
            "%k = transpose.int(%x) {dim0=1, dim1=2}",
            "%s = matmul(%x, %k)",
            "%p = softmax.int(%s) {dim=-1}",
            "%r = matmul(%p, %v)",
        ),
        16,
    ),
}

KEPT = {
    "gelu": (image("%r = gelu(%y)"), "aten.gelu does not pass scales on"),
    "a clip": (image("%r = relu6(%y)"), "clips at fixed numbers"),
    "an output": (image("%r = relu(%y)", end=("%o = conv2d(%r, %z)", "return %o, %r")), "the model returns it"),
    "a number added": (image("%r = add.Scalar(%y) {other=1.0}"), "with a number"),
    "a square": (image("%r = mul.Tensor(%y, %y)"), "multiplies another activation by it"),
    "a norm behind": (
        tokens("%p = linear(%x, %d)", "%n = layer_norm(%p) {normalized_shape=(8,)}", "%r = add.Tensor(%p, %n)"),
        "aten.layer_norm has no stored weight",
    ),
    "a tied weight": (
        tokens(
            "input %i: i64[N, 6]", "%p = embedding(%t, %i)", "%r = relu(%p)", end=("%o = linear(%r, %t)", "return %o")
        ),
        "its weight is read in several ways",
    ),
    "a weight read elsewhere": (
        image("%r = relu(%y)", end=("%o = conv2d(%r, %z)", "%s = sum(%z)", "return %o, %s")),
        "is also read by aten.sum",
    ),
    "half precision": (
        "input %x: f16[N, 8]\nparameter %a: f16[8, 8]\nparameter %z: f16[5, 8]\n%y = linear(%x, %a)\n"
        "%r = relu(%y)\n%o = linear(%r, %z)\nreturn %o",
        "not in single or double precision",
    ),
    "an unknown operator": (image("%r = cumsum(%y) {dim=1}"), "aten.cumsum does not pass scales on"),
}


def inputs(graph: Graph) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for value in graph.inputs:
        shape = [dim if isinstance(dim, int) else 3 for dim in value.shape]
        if value.dtype.is_floating:
            found.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(value.dtype.torch))
        else:
            found.append(torch.randint(9, shape, generator=generator))
    return found


def assert_same(before: Graph, after: Graph, tolerance: float = 2e-6) -> None:
    given = inputs(before)
    for old, new in zip(run_graph(before, *given), run_graph(after, *given), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=tolerance * float(old.abs().max()) + 1e-30)


def scaled(graph: Graph, factors: Any) -> Graph:
    copy = graph.clone()
    spaces = Spaces(copy)
    scales = np.ones(spaces.count + 1)
    scales[1:] = factors(spaces.count)
    assert apply(spaces, scales, Rewriter(copy), "test") == []
    verify(copy)
    return copy


@pytest.mark.parametrize("name", GRAPHS)
def test_any_factors_leave_the_function(name: str) -> None:
    text, channels = GRAPHS[name]
    graph = graphopt.parse(text)
    assert Spaces(graph).count == channels
    generator = np.random.default_rng(0)
    after = scaled(graph, lambda count: np.exp(generator.normal(size=count)))
    assert_same(graph, after)
    moved = [name for name, value in after.constants.items() if value is not graph.constants[name]]
    assert len(moved) >= 2
    assert list(after.constants) == list(graph.constants)


@pytest.mark.parametrize("name", KEPT)
def test_what_keeps_its_scale_says_why(name: str) -> None:
    text, reason = KEPT[name]
    spaces = Spaces(graphopt.parse(text))
    assert not any(space.readers for space in spaces.spaces)
    assert any(reason in found for found in spaces.reasons()), spaces.reasons()


STEPS = (
    "relu(%{0})", "leaky_relu(%{0})", "neg(%{0})", "abs(%{0})", "gelu(%{0})", "relu6(%{0})", "sigmoid(%{0})",
    "max_pool2d(%{0}) {{kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)}}",
    "avg_pool2d(%{0}) {{kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)}}",
    "conv2d(%{0}, %w)", "conv2d(%{0}, %v, %b)", "conv2d(%{0}, %d, %b) {{groups=4, padding=(1, 1)}}",
    "conv2d(%{0}, %e) {{groups=2}}", "add.Tensor(%{0}, %{1})", "sub.Tensor(%{1}, %{0})", "maximum(%{0}, %{1})",
    "mul.Tensor(%{0}, %{1})", "mul.Tensor(%{0}, %c)", "add.Tensor(%{0}, %c)", "div.Scalar(%{0}) {{other=3.0}}",
    "batch_norm(%{0}, %b, %b, %m, %s) {{training=false, momentum=0.1, eps=1e-5, cudnn_enabled=true}}",
)  # fmt: skip
DECLARED = (
    "input %x: f32[N, 4, 5, 5]\nparameter %w: f32[4, 4, 1, 1]\nparameter %v: f32[4, 4, 1, 1]\n"
    "parameter %d: f32[4, 1, 3, 3]\nparameter %e: f32[4, 2, 1, 1]\nparameter %b: f32[4]\nparameter %c: f32[4, 1, 1]\n"
    "buffer %m: f32[4]\nbuffer %s: f32[4]\n%v0 = conv2d(%x, %w)\n"
)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=1, max_size=9), st.integers(0, 99))
def test_any_graph_keeps_its_function(steps: list[tuple[str, int]], seed: int) -> None:
    """Layers that share weights, sums, products and clips in any order: only what may be scaled is."""
    text = DECLARED
    for number, (step, back) in enumerate(steps):
        text += f"%v{number + 1} = {step.format(f'v{number}', f'v{max(number - back, 0)}')}\n"
    graph = graphopt.parse(f"{text}%o = conv2d(%v{len(steps)}, %v)\nreturn %o", {"s": torch.rand(4) + 0.5})
    generator = np.random.default_rng(seed)
    after = scaled(graph, lambda count: np.exp(generator.normal(size=count)))
    assert_same(graph, after, 1e-4)


def chain(count: int) -> Graph:
    lines = ["input %x: f32[8, 6]", *(f"parameter %w{i}: f32[6, 6]" for i in range(count)), "%y0 = linear(%x, %w0)"]
    for i in range(1, count):
        lines += [f"%r{i} = relu(%y{i - 1})", f"%y{i} = linear(%r{i}, %w{i})"]
    return graphopt.parse("\n".join([*lines, f"return %y{count - 1}"]))


@pytest.mark.parametrize(
    "pass_",
    [
        CrossLayerEqualization(),
        CrossLayerEqualization(absorb=True),
        SmoothQuant(alpha=0.5),
        SmoothQuant(alpha=0.5, insert=True),
        ActivationAwareScaling(smallest=0, steps=1),
    ],
    ids=str,
)
def test_the_cost_is_linear(pass_: Pass) -> None:
    """By counting calls, on a chain of layers and one of four times the length."""
    context = PassContext(samples=[[torch.randn(8, 6, generator=torch.Generator().manual_seed(0))]])
    pass_.run(chain(16), context)  # what is memoized is there from now on
    few, many = (calls(pass_, chain(count), context).total() for count in (16, 64))
    assert many < 6.4 * few
