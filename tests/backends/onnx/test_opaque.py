"""Opaque nodes written back: names, captured values, opset imports, and opsets in which an operator is another."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from graphopt.backends.onnx import emit_onnx
from graphopt.backends.onnx.engine import OnnxRuntimeEngine
from graphopt.backends.onnx.opaque import opset_for
from graphopt.backends.onnx.versions import means_the_same
from graphopt.errors import EmissionError
from graphopt.frontends.onnx import read_onnx
from graphopt.ops import parse
from graphopt.ops.onnx_runtime import OnnxProgram


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 18, **domains: int) -> onnx.ModelProto:
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains.items())]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=imports, ir_version=10)


def info(name: str, shape: Any = (2, 3), dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def test_nodes_are_written_as_they_were_read() -> None:
    graph = parse("""
        input %x: f32[2, 3]
        input %m: f32[2, 3]
        %a: f32[2, 3], %c: f32[3] = onnx.strange.Foo(%x, none, %m) {onnx.opset=3, onnx.outputs=(0, 2), alpha=0.5, s="é"}
        return %a, %c""")
    written = emit_onnx(graph)
    (node,) = written.graph.node
    assert (node.domain, node.op_type) == ("strange", "Foo")
    assert list(node.input) == ["x", "", "m"] and node.output[1] == ""
    assert {a.name: helper.get_attribute_value(a) for a in node.attribute} == {"alpha": 0.5, "s": "é".encode()}
    assert {o.domain: o.version for o in written.opset_import}["strange"] == 3


def test_values_that_nested_graphs_capture_have_their_new_names() -> None:
    """The branches, of different ranks, have names of their own that clash with those of the graph around."""
    then = helper.make_graph([helper.make_node("Exp", ["h"], ["y"])], "then", [], [info("y", (3, 3))])
    other = helper.make_graph([helper.make_node("ReduceMax", ["h"], ["y"], keepdims=0)], "else", [], [info("y", (1,))])
    branches = helper.make_node("If", ["c"], ["r"], then_branch=then, else_branch=other)
    nodes = [helper.make_node("Neg", ["x"], ["h"]), branches, helper.make_node("Relu", ["h"], ["y"])]
    source = model(nodes, [info("x", (3, 3)), info("c", (), TensorProto.BOOL)], [info("r", None), info("y", (3, 3))])
    source.graph.output[0].type.tensor_type.ClearField("shape")
    graph = read_onnx(source)
    assert [node.op.name for node in graph] == ["aten.neg", "onnx.If", "aten.relu"]
    written = emit_onnx(graph)
    x = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 1.0]])
    program = OnnxProgram(written.SerializeToString())
    torch.testing.assert_close(program.run([x, torch.tensor(True)])[0], torch.exp(-x))
    assert program.run([x, torch.tensor(False)])[0] == pytest.approx(0.0)


def test_sequences_go_in_and_out() -> None:
    graph = parse("""
        input %xs: seq<f32[N]>
        input %x: f32[M]
        %ys: seq<f32[*]> = onnx.SequenceInsert(%xs, %x) {onnx.opset=18, onnx.kinds=("seq<f32>", "")}
        return %ys, %xs""")
    written = emit_onnx(graph)
    onnx.checker.check_model(written)
    ys, xs = OnnxProgram(written.SerializeToString(), ("seq<f32>", "")).run([[torch.ones(1)], torch.zeros(2)])
    assert [y.tolist() for y in ys] == [[1.0], [0.0, 0.0]] and len(xs) == 1


@pytest.mark.parametrize(
    ("op_type", "own", "other", "same"),
    [
        ("Relu", 7, 20, True),
        ("Add", 14, 20, True),
        ("Squeeze", 11, 13, False),
        ("Softmax", 11, 13, False),
        ("Scan", 8, 20, False),
        ("Scan", 9, 20, True),
        ("Cast", 13, 20, True),
        ("GridSample", 16, 20, False),
        ("CumProd", 26, 20, False),
        ("Upsample", 9, 20, False),
        ("Foo", 9, 20, False),
    ],
)
def test_meanings(op_type: str, own: int, other: int, same: bool) -> None:
    assert means_the_same(helper.make_node(op_type, ["x"], ["y"]), own, other) is same


def test_a_newer_operator_means_the_same_before_if_it_uses_nothing_new() -> None:
    old, new = (
        helper.make_node("Reshape", ["x", "s"], ["y"]),
        helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1),
    )
    types = ["tensor(float)", "tensor(int64)"]
    assert means_the_same(old, 14, 13, types) and not means_the_same(new, 14, 13, types)
    assert not means_the_same(old, 14, 13, ["tensor(float8e5m2)", "tensor(int64)"])
    assert not means_the_same(old, 14, 13)


def test_operators_that_changed_are_converted() -> None:
    """The axes of Unsqueeze are an attribute up to opset 12, an operand from 13 on."""
    graph = parse("""
        input %x: f32[2]
        %y: f32[2, 1] = onnx.Unsqueeze(%x) {onnx.opset=11, axes=(1,)}
        return %y""")
    written = emit_onnx(graph)
    assert [len(node.input) for node in written.graph.node if node.op_type == "Unsqueeze"] == [2]
    assert OnnxProgram(written.SerializeToString()).run([torch.ones(2)])[0].shape == (2, 1)


def test_a_newer_operator_raises_the_opset_of_the_file() -> None:
    graph = parse("""
        input %x: f32[2]
        constant %axis: i64[] = 0
        %y: f32[2] = onnx.CumProd(%x, %axis) {onnx.opset=26}
        return %y""")
    assert opset_for(graph, 20) == 26
    assert {o.domain: o.version for o in emit_onnx(graph).opset_import} == {"": 26}
    with pytest.raises(EmissionError, match=r"CumProd of opset 26 cannot be written in opset 20.*opset=26"):
        emit_onnx(graph, opset=20)


def test_the_engine_runs_them() -> None:
    graph = parse("""
        input %x: f32[N, 3, 3]
        %d: f32[N] = onnx.Det(%x) {onnx.opset=11}
        %y = aten.relu(%d)
        return %y""")
    engine = OnnxRuntimeEngine(threads=1)
    assert engine.unsupported(graph) is None
    x = torch.randn(4, 3, 3)
    torch.testing.assert_close(engine.load(graph).run([x])[0], torch.det(x).relu())
