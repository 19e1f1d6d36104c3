"""Linear layers that read the same value."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphopt
from graphopt.errors import UnknownNameError
from graphopt.ops import parse
from graphopt.passes.legalize import Legalize
from graphopt.passes.quantization.layer_formats import node_names
from graphopt.passes.quantize import Quantize
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


class Attention(nn.Module):
    """Queries, keys and values of the same rows."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), -1) @ self.value(x)


def test_the_layer_goes_by_the_names_of_all() -> None:
    """So that options which pick layers by module or weight still find them."""
    torch.manual_seed(0)
    model, x = nn.Sequential(Attention()).eval(), torch.randn(2, 4, 8)
    graph = Legalize(target="onnxruntime")(graphopt.trace(model, (x,)))
    (layer,) = [node for node in graph if node.name == "aten.linear"]
    assert layer.location.scope == "0.query+key+value"
    names = node_names(layer)
    for part in ("query", "key", "value"):
        assert f"0.{part}" in names and f"0.{part}.weight" in names
    for asked, left in (("*value*", 1), ("0.key", 1), ("0.query.weight", 1), ("*dense*", 0)):
        pass_ = Quantize(ignore=(asked,))
        context = PassContext(target="onnxruntime", calibration=[x])
        if left:
            notes = pass_.run(graph.clone(), context).notes
            assert any(f"ignored as {asked!r}" in note for note in notes)
        else:
            with pytest.raises(UnknownNameError):
                pass_.run(graph.clone(), context)
