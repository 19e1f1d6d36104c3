"""Integers of single layers in ONNX Runtime and in the FX module: within one quantum, ties included."""

from __future__ import annotations

from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.backends.fx import emit_fx
from graphopt.backends.onnx import emit_onnx
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passmanager import PassContext

LAYERS: dict[str, tuple[str, tuple[int, ...]]] = {
    "conv2d": ("conv2d(%a, %v, %c) {padding=(1, 1)}", (4, 3, 3, 3)),
    "linear": ("linear(%a, %v, %c)", (5, 4)),
    "relu": ("relu(%a)", ()),
    "avg_pool2d": ("avg_pool2d(%a) {kernel_size=(2, 2)}", ()),
    "max_pool2d": ("max_pool2d(%a) {kernel_size=(2, 2)}", ()),
    "add": ("add.Tensor(%a, %a)", ()),
    "mul": ("mul.Tensor(%a, %a)", ()),
}
"""By name: the operator in text form, and the shape of its weight."""


def stored(name: str, dtype: str, tensor: torch.Tensor) -> str:
    """A line of the text form that holds a tensor."""

    def nested(numbers: Any) -> str:
        return f"({', '.join(map(nested, numbers))},)" if isinstance(numbers, list) else str(numbers)

    return f"constant %{name}: {dtype}{list(tensor.shape)} = {nested(tensor.tolist())}"


def layer(name: str, x_scale: float, y_scale: float, zero: int, generator: torch.Generator) -> graphopt.Graph:
    """One operator between a pair in front and a quantization behind, its weight and bias as integers."""
    call, weight = LAYERS[name]
    lines = [f"input %x: f32[{'3, 4' if name == 'linear' else '2, 3, 4, 4'}]"]
    lines += [f"constant %s: f32[] = {x_scale}", f"constant %z: u8[] = {zero}", f"constant %t: f32[] = {y_scale}"]
    if weight:
        lines += [stored("w", "i8", torch.randint(-100, 100, weight, generator=generator))]
        lines += [stored("b", "i32", torch.randint(-100, 100, weight[:1], generator=generator))]
        lines += ["constant %ws: f32[] = 0.03125", f"constant %bs: f32[] = {x_scale * 0.03125}"]
    lines += [
        '%q = graphopt.quantize(%x, %s, %z) {dtype="uint8"}',
        '%a = graphopt.dequantize(%q, %s, %z) {dtype="uint8"}',
    ]
    if weight:
        lines += [
            '%v = graphopt.dequantize(%w, %ws) {dtype="int8"}',
            '%c = graphopt.dequantize(%b, %bs) {dtype="int32"}',
        ]
    lines += [f"%y = {call}", '%o = graphopt.quantize(%y, %t, %z) {dtype="uint8"}', "return %o"]
    return graphopt.parse("\n".join(lines))


def session(graph: graphopt.Graph, optimized: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(emit_onnx(graph).SerializeToString(), options)


@pytest.mark.parametrize("name", LAYERS)
@settings(deadline=None, max_examples=5)
@given(data=st.data())
def test_onnx_runtime_and_fx_differ_by_one_quantum_at_most(name: str, data: st.DataObject) -> None:
    """Scales are powers of two, so that halves of a step, which are ties, do occur, at the input and at the output."""
    x_scale, y_scale = (2.0 ** data.draw(st.integers(-6, -2)) for _ in range(2))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    graph = layer(name, x_scale, y_scale, data.draw(st.integers(0, 255)), generator)
    shape = [int(d) for d in graph.inputs[0].shape]
    x = torch.randint(-300, 300, shape, generator=generator) * x_scale / 2
    with torch.no_grad():
        found = emit_fx(graph)(x)
    assert torch.equal(found, run_graph(graph, x)[0])
    for optimized in (False, True):
        running = session(graph, optimized)
        theirs = torch.from_numpy(running.run(None, {running.get_inputs()[0].name: x.numpy()})[0])
        assert int((found.int() - theirs.int()).abs().max()) <= 1


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.1, 0.25, 1.7]))
def test_a_pair_around_a_constant_folds_to_what_it_computes(seed: int, scale: float) -> None:
    w = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
    graph = graphopt.parse(f"""
    input %x: f32[4, 6]
    {stored("w", "f32", w)}
    constant %s: f32[] = {scale}
    %q = graphopt.quantize(%w, %s) {{dtype="int8"}}
    %d = graphopt.dequantize(%q, %s) {{dtype="int8"}}
    %y = add.Tensor(%x, %d)
    return %y""")
    x = torch.zeros(4, 6)
    wanted = graphopt.fake_quantize(w, torch.tensor(scale))
    for decode, left in ((False, 1), (True, 0)):
        folded = FoldConstants(decode=decode)(graph, PassContext())
        assert sum(node.name.startswith("graphopt.") for node in folded) == left
        assert torch.equal(run_graph(folded, x)[0], wanted)
