"""`check_pass` finds what is wrong with a pass: its numbers, its word, its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from graphopt.errors import GraphOptWarning
from graphopt.ir import Graph, verify
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext, PassResult, pass_, rewrite
from graphopt.rewrite import Contract, Rewriter, aten, var
from graphopt.testing import assert_linear, check_pass
from graphopt.testing.linear import LINK, chained, repeated

pytestmark = pytest.mark.unchecked_passes

x = var("x")
OPERATORS = ["relu", "neg", "add.Tensor", "sigmoid"]


@rewrite(aten.neg(aten.neg(x)), contract=Contract.BITWISE)
def twice(x: Any) -> Any:
    return x


def test_a_right_pass_holds() -> None:
    check_pass(twice, 10, idempotent=True, operators=OPERATORS)


def test_wrong_numbers_are_found() -> None:
    @rewrite(aten.neg(x), contract=Contract.BITWISE)
    def wrong(x: Any) -> Any:
        return aten.relu(x)

    with pytest.raises(AssertionError, match="not bitwise"):
        check_pass(wrong, 30, operators=OPERATORS)


@dataclass(frozen=True)
class AddsRelu(Pass):
    """Adds a node that nothing uses at every run."""

    contract = Contract.BITWISE
    idempotent = True

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        rewriter = Rewriter(graph, context.listeners)
        for value in graph.inputs[:1]:
            if value.type.dtype.is_floating:
                rewriter.create("aten.relu", value)
        return PassResult(rewriter.changed)


def test_a_claim_of_idempotence_is_held() -> None:
    with pytest.raises(AssertionError, match="adds-relu is not idempotent"):
        check_pass(AddsRelu, 30, operators=OPERATORS)
    check_pass(AddsRelu, 5, idempotent=False, operators=OPERATORS)


def test_a_quadratic_pass_is_found() -> None:
    @pass_(contract=Contract.BITWISE)
    def looks_everywhere(graph: Graph, rewriter: Any) -> None:
        for node in graph:
            assert any(other is node for other in graph)

    with pytest.raises(AssertionError, match=r"(?s)'looks-everywhere' is not linear.*times as many.*looks_everywhere"):
        assert_linear(looks_everywhere)
    with pytest.raises(AssertionError, match="not linear"):
        check_pass(looks_everywhere, 2)
    check_pass(looks_everywhere, 2, linear=False)


@pytest.mark.parametrize("name", ["canonicalize", "dead-code", "common-subexpressions", "merge-constants"])
def test_passes_of_the_package_are_linear(name: str) -> None:
    check_pass(name, 1)


def test_copies_are_sound() -> None:
    link = parse(LINK)
    for made in (chained(link, 3), repeated(link, 3)):
        verify(made)
        assert len(made) == 3 * len(link)
    assert len(repeated(link, 3).inputs) == 3 == len(repeated(link, 3).outputs)


def test_a_pass_that_never_fires_is_told() -> None:
    @rewrite(aten.relu(aten.sigmoid(x)), contract=Contract.REASSOCIATING)
    def rare(x: Any) -> Any:
        return aten.sigmoid(x)

    with pytest.warns(GraphOptWarning, match="rare changed none of 3 random graphs"):
        check_pass(rare, 3, linear=False, operators=["neg"])
