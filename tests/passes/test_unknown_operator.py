"""Operators that no pass knows are barriers: every pass leaves them, their order and their operands alone."""

from __future__ import annotations

import pytest
import torch

from graphopt.ir import Op, Param, ParamKind, verify
from graphopt.ops import parse, registry
from graphopt.passmanager import PassContext, as_pipeline
from graphopt.pipelines import default_pipeline

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
