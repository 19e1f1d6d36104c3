"""`check`: a pass on a graph in text, against the text and rule counts that are expected, and against its contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from graphopt.ir import Graph, difference, print_graph, verify
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext, PassResult, RulePass
from graphopt.rewrite import Contract
from tests.passes.equivalence import assert_equivalent


class Check:
    """Runs a pass as `check` says, and keeps what it returned."""

    result: PassResult
    graph: Graph

    def __call__(
        self,
        pass_: Pass,
        before: str,
        after: str | None = None,
        applied: Mapping[str, int] | None = None,
        *,
        declined: str | None = None,
        context: PassContext | None = None,
        tensors: Mapping[str, Any] | None = None,
        special: bool = True,
        numeric: bool = True,
        idempotent: bool = True,
    ) -> Graph:
        """Run and compare.

        after: the text that is expected; None expects the graph to be left alone.
        applied: the exact counts of the rules that fired. declined: part of a reason that must have been given.
        """
        graph = parse(before, tensors)
        verify(graph)
        original = graph.clone()
        self.result = pass_.run(graph, context or PassContext())
        self.graph = graph
        verify(graph)
        self._text(original, graph, after, tensors)
        self._counts(applied, declined)
        if numeric:
            assert_equivalent(original, graph, self._contract(pass_), special=special)
        if idempotent:
            again = graph.clone()
            assert not pass_.run(again, context or PassContext()).changed, f"not idempotent:\n{again}"
        return graph

    def _text(self, original: Graph, graph: Graph, after: str | None, tensors: Mapping[str, Any] | None) -> None:
        expected = original if after is None else parse(after, tensors)
        found = difference(graph, expected, locations=False)
        assert found is None, f"{found}\n{print_graph(graph, locations=False)}\nexpected\n{expected}"
        touched = difference(graph, original, locations=False) is not None
        assert self.result.changed or not touched, "the pass changed the graph and says that it did not"
        if after is None:
            assert not self.result.changed, "the pass says that it changed the graph"

    def _counts(self, applied: Mapping[str, int] | None, declined: str | None) -> None:
        statistics = self.result.statistics
        if applied is not None:
            assert statistics is not None and statistics.applied == dict(applied)
        if declined is not None:
            assert statistics is not None
            reasons = [d.reason for d in statistics.declined]
            assert any(declined in reason for reason in reasons), reasons

    def _contract(self, pass_: Pass) -> Contract:
        """The loosest promise among the rules that fired."""
        statistics = self.result.statistics
        if not isinstance(pass_, RulePass) or statistics is None:
            return pass_.contract
        promises = {rule.label: rule.promise for rule in pass_.rules()}
        return max((promises[name] for name in statistics.applied if name in promises), default=Contract.BITWISE)


@pytest.fixture
def check() -> Check:
    return Check()
