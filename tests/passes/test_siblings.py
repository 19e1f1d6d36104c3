"""Linear layers that read the same value."""

from __future__ import annotations

import torch

from graphopt.ops import parse
from graphopt.passes.legalize import Legalize
from graphopt.passes.rules import siblings
from graphopt.passmanager import PassContext
from graphopt.rewrite import Contract
from graphopt.testing import assert_equivalent, check_pass

TEXT = """input %x: f32[N, 5, 4]
parameter %wq: f32[6, 4]
parameter %wk: f32[2, 4]
parameter %wv: f32[3, 4]
parameter %bq: f32[6]
parameter %bv: f32[3]
%q = aten.linear(%x, %wq, %bq)
%r = aten.relu(%x)
%k = aten.linear(%x, %wk)
%v = aten.linear(%x, %wv, %bv)
return %q, %k, %v, %r"""


def test_three_layers_become_one() -> None:
    graph = parse(TEXT)
    after = Legalize(target="onnxruntime")(graph)
    assert [node.op.base for node in after] == ["aten.linear", "aten.split_with_sizes", "aten.relu"]
    weight, bias = (after.nodes[0].operands[i].constant.tensor for i in (1, 2))
    stored = {name: value.constant.tensor for name, value in graph.constants.items()}
    assert torch.equal(weight, torch.cat([stored[name] for name in ("wq", "wk", "wv")]))
    assert torch.equal(bias, torch.cat([stored["bq"], torch.zeros(2), stored["bv"]]))
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING)


def test_weights_that_are_trained_shared_or_large_stay(check, monkeypatch) -> None:
    check(Legalize(target="fx"), TEXT)
    check(Legalize(target="onnx"), TEXT, context=PassContext(trainable=True))
    shared = TEXT.replace("%wk)", "%wq)").replace("%wv, %bv", "%wq, %bq")
    check(Legalize(target="onnx"), shared)
    monkeypatch.setattr(siblings, "LIMIT", 10)
    check(Legalize(target="onnx"), TEXT, declined="large")


def test_a_layer_that_uses_the_value_first_but_stands_last() -> None:
    graph = parse(TEXT)
    last, first = graph.nodes[3], graph.nodes[0]
    graph.move_before(last, first)
    graph.move_before(graph.nodes[2], first)
    after = Legalize(target="onnxruntime")(graph)
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING)
    assert [node.op.base for node in after] == ["aten.linear", "aten.split_with_sizes", "aten.relu"]


def test_random_graphs() -> None:
    check_pass(Legalize(target="onnx"), examples=20, operators=["linear", "relu", "call-again"], max_nodes=10)
