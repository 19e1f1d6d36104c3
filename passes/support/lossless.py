"""The base of the passes that are made of rules: they reach into regions, and know whether the result is trained."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from graphopt.ir import Graph
from graphopt.ops.effects import is_removable
from graphopt.passes.support.regions import graph_and_regions
from graphopt.passmanager import PassContext, PassResult, RulePass
from graphopt.rewrite import RewriteStatistics, RuleSet, apply_rules
from graphopt.rewrite.driver import Fold


@dataclass(frozen=True)
class LosslessRules(RulePass):
    """Applies its rules to the graph and to every region in it, inner ones first."""

    def folding(self, graph: Graph, context: PassContext, notes: list[str]) -> Fold | None:
        """The folding hook for one graph; `notes` takes sentences for the report."""
        return None

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        rules = RuleSet(self.rules())
        statistics = RewriteStatistics()
        notes: list[str] = []
        for inner in graph_and_regions(graph):
            found = apply_rules(
                inner,
                rules,
                fold=self.folding(inner, context, notes),
                removable=context.removable or partial(is_removable, trainable=context.trainable),
                listeners=context.listeners,
                gate=context.gate,
                trainable=context.trainable,
            )
            statistics.merge(found)
        return PassResult(statistics.changes > 0, statistics, notes)
