"""Operators that ONNX has for what are several nodes of the IR."""

from __future__ import annotations

import pytest

from graphopt.backends.onnx import emit_onnx
from graphopt.backends.onnx.engine import OnnxRuntimeEngine
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.testing import assert_equivalent


def joined(text: str, operators: list[str]) -> Graph:
    graph = parse(text)
    assert [node.op_type for node in emit_onnx(graph).graph.node] == operators
    executable = OnnxRuntimeEngine(optimization="off").load(graph)
    assert_equivalent(graph, lambda *inputs: executable.run(inputs))
    return graph


CONV = """input %x: f32[N, 2, 7, 9]
parameter %w: f32[3, 2, 3, 3]
%p = aten.constant_pad_nd(%x) {{pad={0}{1}}}
%y = aten.conv2d(%p, %w) {{stride=(2, 2), padding=(1, 0)}}
return {2}"""


@pytest.mark.parametrize("pad", ["(1, 2, 0, 3)", "(0, 1)", "(2, 2, 1, 1)", "(0, 1, 0, 1, 0, 0, 0, 0)"])
def test_padding_of_its_own_on_each_side(pad: str) -> None:
    joined(CONV.format(pad, "", "%y"), ["Conv"])


def test_padding_with_another_number_or_of_channels_stays() -> None:
    joined(CONV.format("(1, 2, 0, 3)", ", value=1.0", "%y"), ["Pad", "Conv"])
    joined(CONV.format("(-1, 2)", "", "%y"), ["Slice", "Pad", "Conv"])
    text = CONV.format("(0, 0, 0, 0, 1, 0)", "", "%y").replace("[3, 2, 3, 3]", "[3, 3, 3, 3]")
    joined(text, ["Pad", "Conv"])


def test_padding_that_is_returned_stays_beside_the_layer() -> None:
    joined(CONV.format("(1, 2)", "", "%y, %p"), ["Pad", "Conv"])


LINE = """input %x: f32[N, 4]
%a = aten.mul.Scalar(%x) {{other=0.2}}
%b = aten.add.Scalar(%a) {{other=0.5}}
%y = aten.clamp(%b) {{min=0, max={0}}}
return {1}"""


def test_hard_sigmoids_of_other_numbers() -> None:
    joined(LINE.format(1, "%y"), ["HardSigmoid"])
    joined(LINE.format(2, "%y"), ["Mul", "Add", "Clip"])
    joined(LINE.format(1, "%y, %a"), ["Mul", "Add", "Clip"])


RESIDUAL = """input %x: f32[N, 4]
parameter %b: f32[4]
%y = aten.relu(%x)
%a = aten.add.Tensor(%x, {0})
%n = aten.layer_norm(%a) {{normalized_shape=(4,)}}
return %n, %a"""


def test_a_residual_before_a_layer_norm_is_a_sum() -> None:
    joined(RESIDUAL.format("%y"), ["Relu", "Sum", "LayerNormalization"])
    joined(RESIDUAL.format("%b"), ["Add", "LayerNormalization"])


@pytest.mark.parametrize(("shape", "operator"), [("(N, 1, M + 3)", "Unsqueeze"), ("(1, N, M + 3)", "Unsqueeze")])
def test_dims_of_size_one_among_dynamic_ones(shape: str, operator: str) -> None:
    joined(f"input %x: f32[N, M + 3]\n%y = aten.reshape(%x) {{shape={shape}}}\nreturn %y", [operator])
    back = f"input %x: f32{shape.replace('(', '[').replace(')', ']')}\n%y = aten.reshape(%x) {{shape=(N, M + 3)}}"
    joined(f"{back}\nreturn %y", ["Squeeze"])
