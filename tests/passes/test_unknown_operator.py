"""Operators that no pass knows are barriers: every pass leaves them, their order and their operands alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from graphopt.ir import Graph, Op, Param, ParamKind, verify
from graphopt.ops import parse, registry
from graphopt.ops.onnx_dialect import is_opaque
from graphopt.passmanager import PassContext, as_pipeline
from graphopt.pipelines import default_pipeline
from graphopt.testing.suite import registered_passes

PASSES = {pass_.name: pass_ for pass_ in default_pipeline("onnxruntime")}


@pytest.fixture(scope="module")
def strange() -> Op:
    """An operator without traits: for all that a pass knows it may do anything. It computes x + 1."""
    op = Op(
        "strange.count",
        (Param("x", ParamKind.OPERAND), Param("mode", ParamKind.ATTRIBUTE, "str", "plain")),
        infer=lambda call: [call.operand_types[0]],
        evaluate=lambda x, mode="plain": x + 1,
    )
    return registry.find(op.name) or registry.register(op)


TEXT = """
    input %x: f32[N, 4]
    constant %c: f32[4] = (0.0, 0.0, 0.0, 0.0)
    parameter %w: f32[4, 4]
    buffer %mean: f32[4] = (0.0, 0.0, 0.0, 0.0)
    buffer %var: f32[4] = (1.0, 1.0, 1.0, 1.0)
    %a = strange.count(%x)
    %b = strange.count(%x)
    %dead = strange.count(%b)
    %constant = strange.count(%c)
    %d = aten.add.Tensor(%a, %constant)
    %e = aten.linear(%d, %w)
    %f = strange.count(%e)
    %g = aten.batch_norm(%f, none, none, %mean, %var) {training=false, momentum=0.1, eps=0.0, cudnn_enabled=true}
    %t = aten.transpose.int(%g) {dim0=0, dim1=1}
    %u = strange.count(%t)
    %r = aten.transpose.int(%u) {dim0=0, dim1=1}
    return %r"""


@pytest.mark.parametrize("name", [*PASSES, "default"])
@pytest.mark.parametrize("trainable", [False, True])
def test_unknown_operators_stay(strange: Op, name: str, trainable: bool) -> None:
    graph = parse(TEXT, {"w": torch.eye(4)})
    before = [(node.op, node.results[0].name) for node in graph if node.op is strange]
    pass_ = as_pipeline(default_pipeline("onnxruntime")) if name == "default" else PASSES[name]
    pass_.run(graph, PassContext(target="onnxruntime", trainable=trainable))
    verify(graph)
    assert [(node.op, node.results[0].name) for node in graph if node.op is strange] == before


OPAQUE = """
    input %x: f32[N, 4]
    input %xs: seq<f32[N, 4]>
    input %s: string[2]
    constant %c: f32[4] = (0.0, 0.0, 0.0, 0.0)
    parameter %w: f32[4, 4]
    parameter %k: f32[4, 4, 3, 3]
    buffer %mean: f32[4] = (0.0, 0.0, 0.0, 0.0)
    buffer %var: f32[4] = (1.0, 1.0, 1.0, 1.0)
    %a: f32[N, 4] = onnx.Sin(%x) {onnx.opset=20}
    %d = aten.add.Tensor(%a, %c)
    %e = aten.linear(%d, %w)
    %f: f32[N, 4] = onnx.Atan(%e) {onnx.opset=20}
    %g = aten.batch_norm(%f, none, none, %mean, %var) {training=false, momentum=0.1, eps=0.0, cudnn_enabled=true}
    %t = aten.transpose.int(%g) {dim0=0, dim1=1}
    %u: f32[4, N] = onnx.Cos(%t) {onnx.opset=20}
    %r = aten.transpose.int(%u) {dim0=0, dim1=1}
    %ys: seq<f32[N, 4]> = onnx.SequenceInsert(%xs, %r) {onnx.opset=18, onnx.kinds=("seq<f32>", "")}
    %z: f32[*] = onnx.ConcatFromSequence(%ys) {onnx.opset=18, onnx.kinds=("seq<f32>",), axis=0}
    %n: f32[*] = onnx.Neg(%z) {onnx.opset=18}
    %nz: i64[2, u0] = onnx.NonZero(%r) {onnx.opset=18}
    %p = aten.permute(%nz) {dims=(1, 0)}
    %q = aten.reshape(%p) {shape=(2*u0,)}
    %i = aten.reshape(%x) {shape=(N, 4, 1, 1)}
    %v: f32[N, 4, 1, 1] = onnx.Sinh(%i) {onnx.opset=20}
    %conv = aten.conv2d(%v, %k) {padding=(1, 1)}
    %gelu: f32[N, 4, 1, 1] = onnx.com.microsoft.Gelu(%conv) {onnx.opset=1}
    %strings: string[2] = onnx.StringConcat(%s, %s) {onnx.opset=20}
    %random: f32[3] = onnx.RandomNormal() {onnx.opset=22, shape=(3,)}
    %strange: f32[3] = "onnx.my-domain.Foo"(%random) {onnx.opset=1}
    return %r, %ys, %n, %nz, %q, %gelu, %strings, %strange"""
EVERY = {pass_.name: pass_ for pass_ in registered_passes()}


def run_pass(name: str, graph: Graph, trainable: bool = False, samples: Sequence[Any] = ()) -> None:
    pass_ = as_pipeline(default_pipeline("onnxruntime")) if name == "default" else EVERY[name]
    pass_.run(graph, PassContext(target="onnxruntime", trainable=trainable, samples=samples))
    verify(graph)


@pytest.mark.unchecked_passes  # nothing can run my-domain.Foo
@pytest.mark.parametrize("name", [*sorted(EVERY.keys() - {"quantize", "choose-recipe"}), "default"])
@pytest.mark.parametrize("trainable", [False, True])
def test_opaque_nodes_stay(name: str, trainable: bool) -> None:
    graph = parse(OPAQUE, {"w": torch.eye(4), "k": torch.rand(4, 4, 3, 3)})
    before = {node.results[0].name: (node.op, node.attributes) for node in graph if is_opaque(node)}
    run_pass(name, graph, trainable)
    assert {node.results[0].name: (node.op, node.attributes) for node in graph if is_opaque(node)} == before
    assert [repr(v.type) for v in graph.outputs][:4] == ["f32[N, 4]", "seq<f32[N, 4]>", "f32[*]", "i64[2, u0]"]


@pytest.mark.parametrize("name", [*EVERY, "default"])
def test_graphs_with_opaque_nodes_keep_their_function(name: str) -> None:
    """The fixture of all tests validates the pass."""
    left_out = ("seq<", "string", "f32[*]", "random", "return")
    lines = [line for line in OPAQUE.splitlines() if not any(word in line for word in left_out)]
    graph = parse("\n".join([*lines, "return %r, %nz, %q, %gelu"]), {"w": torch.eye(4), "k": torch.rand(4, 4, 3, 3)})
    run_pass(name, graph, samples=[(torch.rand(3, 4) - 0.5,)])
    assert sum(map(is_opaque, graph)) == 6


def test_opaque_nodes_are_functions_of_their_operands_unless_random() -> None:
    """Like nodes are one, unused ones go; not those that draw numbers, or bind a size of their own."""
    text = """
        input %x: f32[N]
        %a: f32[N] = onnx.Sin(%x) {onnx.opset=20}
        %b: f32[N] = onnx.Sin(%x) {onnx.opset=20}
        %r: f32[4] = onnx.RandomNormal() {onnx.opset=20, shape=(4,)}
        %s: f32[4] = onnx.RandomNormal() {onnx.opset=20, shape=(4,)}
        %unused: f32[N] = onnx.Cos(%x) {onnx.opset=20}
        %drawn: f32[4] = onnx.RandomNormal() {onnx.opset=20, shape=(4,)}
        %m: i64[1, u0] = onnx.NonZero(%x) {onnx.opset=20}
        %n: i64[1, u1] = onnx.NonZero(%x) {onnx.opset=20}
        %c = aten.add.Tensor(%a, %b)
        return %c, %r, %s, %m, %n"""
    graph = parse(text)
    for name in ("common-subexpressions", "dead-code"):
        run_pass(name, graph)
    assert [node.op.name for node in graph if is_opaque(node)] == [
        "onnx.Sin",
        "onnx.RandomNormal",
        "onnx.RandomNormal",
        "onnx.NonZero",
        "onnx.NonZero",
    ]
