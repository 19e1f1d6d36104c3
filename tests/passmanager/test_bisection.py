"""Bisection: the first pass and the first application after which a graph is bad, in logarithmic time."""

from __future__ import annotations

import pytest

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.ops import parse
from graphopt.passmanager import bisect, fixpoint, pass_
from graphopt.passmanager.bisection import first
from graphopt.passmanager.decorators import rewrite
from graphopt.rewrite import aten, var
from tests.passmanager.models import mlp, nothing, relu_once, split_linear

x, other = var("x"), var("other")


def chain(length: int) -> Graph:
    lines = [
        f'%v{i} = aten.add.Scalar(%{f"v{i - 1}" if i else "x"}) {{other={i}}} @ "m.py":{i} ""' for i in range(length)
    ]
    return parse("\n".join(["input %x: f32[4]", *lines, f"return %v{length - 1}"]))


@rewrite(aten.add.Scalar(x, other))
def to_sub(x, other):
    return aten.sub.Scalar(x, -other)


def test_the_pass_the_rule_the_node_and_the_graphs_around_it() -> None:
    judged = 0

    def is_bad(graph: Graph) -> bool:
        nonlocal judged
        judged += 1
        return any(n.op.name == "aten.sub.Scalar" and n.attr("other") == -37 for n in graph)

    culprit = bisect([nothing, relu_once, to_sub, "dead-code"], chain(64), is_bad)
    assert culprit is not None
    assert (culprit.pass_, culprit.rule, culprit.number) == ("to-sub", "to-sub", 38)
    assert culprit.location.startswith("m.py:37") and "aten.add.Scalar" in culprit.node
    assert not is_bad(culprit.before) and is_bad(culprit.after)
    assert judged <= 16
    assert "pass 'to-sub', rule 'to-sub', application 38" in str(culprit)


def test_a_pass_without_rules_is_named_as_a_whole() -> None:
    @pass_
    def break_it(graph, rewriter, *, hard=False):
        norm = next(n for n in graph if n.op.name == "aten.layer_norm")
        rewriter.replace(norm, [norm.operands[0]])

    culprit = bisect([relu_once, break_it.with_options(hard=True)], mlp(), lambda g: "layer_norm" not in str(g))
    assert culprit is not None and str(culprit) == "pass 'break-it{hard=true}'" and culprit.number == 0
    assert len(culprit.before) == 4


def test_loops_are_looked_into() -> None:
    culprit = bisect([fixpoint(relu_once, split_linear)], mlp(), lambda g: len(g) > 5)
    assert culprit is not None and culprit.pass_ == "split-linear" and "fc2" in culprit.location


def test_a_graph_that_never_turns_bad() -> None:
    assert bisect([relu_once], mlp(), lambda g: False) is None
    assert bisect([nothing], mlp(), lambda g: len(g) == 0) is None


def test_a_graph_that_is_bad_from_the_start() -> None:
    with pytest.raises(GraphOptError, match="bad before any pass has run"):
        bisect([relu_once], mlp(), lambda g: True)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 17])
def test_first_finds_every_position(count: int) -> None:
    for position in range(count):
        assert first(count, lambda i, p=position: i >= p) == position
