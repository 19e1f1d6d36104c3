"""The rewriter: every mutation keeps the invariants, the types and the use lists, and is told to listeners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graphopt.errors import GraphOptError, TypeInferenceError, UnknownNameError
from graphopt.ir import ConstantKind, DType, Graph, Node, TensorType, Value
from graphopt.ops import parse
from graphopt.rewrite import Listener, Rewriter, result_types
from tests.rewrite.programs import BINARY, UNARY, check_invariants


class Mirror(Listener):
    """Keeps the set of nodes of a graph by listening alone."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = set(graph)
        self.events: list[tuple[str, str]] = []

    def inserted(self, node: Node) -> None:
        assert node not in self.nodes
        self.nodes.add(node)
        self.events.append(("inserted", node.op.name))

    def removed(self, node: Node) -> None:
        self.nodes.remove(node)
        self.events.append(("removed", node.op.name))

    def modified(self, node: Node) -> None:
        self.events.append(("modified", node.op.name))

    def replaced(self, node: Node, values: Any) -> None:
        self.events.append(("replaced", node.op.name))


class Mutations(RuleBasedStateMachine):
    """Random mutations through the rewriter; after each, the graph verifies and the listener has seen it all."""

    graph: Graph

    @initialize()
    def start(self) -> None:
        self.graph = Graph()
        self.type = TensorType(DType.I64, (3,))
        for name in ("x", "y"):
            self.graph.add_input(name, self.type)
        self.graph.set_outputs(self.graph.inputs)
        self.mirror = Mirror(self.graph)
        self.rewriter = Rewriter(self.graph, [self.mirror])

    def value(self, data: Any, before: Node | None = None) -> Value:
        """A value that is defined before a node (before the end, if there is none)."""
        pool = [*self.graph.inputs, *self.graph.constants.values()]
        for node in self.graph:
            if node is before:
                break
            pool += node.results
        return data.draw(st.sampled_from(pool), label="value")

    def node(self, data: Any) -> Node:
        return data.draw(st.sampled_from(list(self.graph)), label="node")

    @rule(data=st.data(), op=st.sampled_from(UNARY + BINARY))
    def create(self, data: Any, op: str) -> None:
        anchor = data.draw(st.sampled_from([*self.graph, self.graph.terminator]), label="anchor")
        args = [self.value(data, anchor) for _ in range(1 if op in UNARY else 2)]
        with self.rewriter.at(anchor, "create"):
            self.rewriter.create(op, *args)

    @rule()
    def store(self) -> None:
        self.rewriter.constant(torch.ones(3, dtype=torch.int64), "c")

    @precondition(lambda self: len(self.graph) > 0)
    @rule(data=st.data())
    def replace(self, data: Any) -> None:
        node = self.node(data)
        self.rewriter.replace(node, [self.value(data, node)])

    @precondition(lambda self: len(self.graph) > 0)
    @rule(data=st.data())
    def rewire(self, data: Any) -> None:
        node = self.node(data)
        index = data.draw(st.integers(0, len(node.operands) - 1))
        self.rewriter.set_operand(node, index, self.value(data, node))

    @rule(data=st.data(), index=st.integers(0, 1))
    def output(self, data: Any, index: int) -> None:
        self.rewriter.set_operand(self.graph.terminator, index, self.value(data))

    @rule()
    def erase_unused(self) -> None:
        for node in reversed(self.graph):
            if not node.results[0].num_uses:
                self.rewriter.erase(node)

    @precondition(lambda self: len(self.graph) > 0)
    @rule(data=st.data())
    def move_down(self, data: Any) -> None:
        node = self.node(data)
        users = [u for u in node.results[0].users if u is not self.graph.terminator]
        order = {n: i for i, n in enumerate(self.graph)}
        anchor = min(users, key=order.__getitem__, default=self.graph.terminator)
        self.rewriter.move_before(node, anchor)

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "graph"):
            check_invariants(self.graph)
            assert self.mirror.nodes == set(self.graph)
            copy = self.graph.clone()
            check_invariants(copy)
            assert str(copy) == str(self.graph)


Mutations.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_random_mutations = Mutations.TestCase


def test_types_follow_downstream() -> None:
    graph = parse(
        "input %x: f32[4, 6]\ninput %y: f32[5, 6]\n%a = aten.relu(%x)\n%b = aten.sum.dim_IntList(%a) {dim=(1,)}\n"
        "%c = aten.neg(%b)\nreturn %c"
    )
    rewriter = Rewriter(graph, [mirror := Mirror(graph)])
    relu, total, _ = graph.nodes
    rewriter.set_operand(relu, 0, graph.inputs[1])
    assert [str(n.results[0].type) for n in graph] == ["f32[5, 6]", "f32[5]", "f32[5]"]
    rewriter.set_attributes(total, dim=(0,))
    assert [str(n.results[0].type) for n in graph] == ["f32[5, 6]", "f32[6]", "f32[6]"]
    assert mirror.events.count(("modified", "aten.neg")) == 2


def test_locations_and_names() -> None:
    graph = parse('input %x: f32[4]\n%a = aten.relu(%x) @ "m.py":3 "act"\nreturn %a')
    rewriter = Rewriter(graph)
    (node,) = graph
    with rewriter.at(node, "first"):
        made = rewriter.create("aten.neg", graph.inputs[0])
    assert str(made.location) == "m.py:3 act <- first" and next(iter(graph)) is made
    rewriter.replace(node, made.results)
    assert graph.outputs[0].name == "a"
    assert rewriter.create("aten.abs", graph.inputs[0]).location.rules == ()


def test_constants_play_the_role_of_the_original() -> None:
    graph = parse(
        'input %x: f32[4]\nparameter %w: f32[4] names "a.weight", "b.weight" requires_grad\n'
        "%y = aten.mul.Tensor(%x, %w)\nreturn %y"
    )
    rewriter = Rewriter(graph)
    weight = graph.constants["w"]
    new = rewriter.constant_like(weight, torch.ones(4, requires_grad=True))
    constant = new.constant
    assert constant is not None and constant.kind is ConstantKind.PARAMETER and constant.requires_grad
    assert constant.names == ("a.weight", "b.weight") and not constant.tensor.requires_grad and new.name == "w_1"
    rewriter.replace_value(weight, new)
    rewriter.drop_constant(weight)
    assert list(graph.constants) == ["w_1"]
    with pytest.raises(GraphOptError, match="still has 1 uses"):
        rewriter.drop_constant(new)
    with pytest.raises(GraphOptError, match="is not a constant"):
        rewriter.constant_like(graph.inputs[0], torch.ones(4))


def test_mistakes() -> None:
    graph = parse("input %x: f32[4]\n%a = aten.relu(%x)\nreturn %a")
    rewriter = Rewriter(graph)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        rewriter.create("aten.reluu", graph.inputs[0])
    with pytest.raises(UnknownNameError, match="'slope'"):
        rewriter.create("aten.relu", graph.inputs[0], slope=1)
    with pytest.raises(TypeInferenceError):
        rewriter.create("aten.mm", graph.inputs[0], graph.inputs[0])
    with pytest.raises(GraphOptError, match="has 1 results, got 2"):
        rewriter.replace(next(iter(graph)), [graph.inputs[0]] * 2)
    with pytest.raises(ValueError, match="still used"):
        rewriter.erase(next(iter(graph)))
    check_invariants(graph)


def test_result_types_create_nothing() -> None:
    graph = parse("input %x: f32[N, 4]\nreturn %x")
    (type_,) = result_types("aten.sum.dim_IntList", graph.inputs[0], (1,))
    assert str(type_) == "f32[N]" and len(graph) == 0 and graph.inputs[0].num_uses == 1
