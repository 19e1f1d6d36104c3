"""Compute equal expressions once.

    %a = f(%x); %b = f(%x)   →   %a = f(%x), and %a for every %b

Bitwise: one evaluation of a pure operator stands for another with the same operands and attributes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from graphopt.ir import Graph, Node, Trait, structurally_equal
from graphopt.ops.effects import is_pure
from graphopt.passes.support.regions import graph_and_regions
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter, RewriteStatistics
from graphopt.rewrite.rule import type_reason


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Replace a node by an earlier one with the same operator, operands, attributes and regions.

    Operands of commutative operators are compared in either order. Random operators, effects and nodes in training
    mode are never merged: two draws are not one.
    """

    contract = Contract.BITWISE

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place; linear in nodes + uses."""
        statistics = RewriteStatistics()
        for inner in graph_and_regions(graph):
            self._number(inner, context, statistics)
        return PassResult(statistics.changes > 0, statistics)

    def _number(self, graph: Graph, context: PassContext, statistics: RewriteStatistics) -> None:
        rewriter = Rewriter(graph, context.listeners)
        seen: dict[Hashable, Node] = {}
        for node in graph:
            first = seen.setdefault(_key(node), node)
            if first is node or not is_pure(node, context.trainable) or not _same_regions(first, node):
                continue
            reason = type_reason(node.results, first.results)
            if reason is not None:
                statistics.decline(self.name, node, reason)
            elif context.gate is None or context.gate(self.name, node):
                rewriter.replace(node, first.results)
                statistics.rule(self.name).applied += 1


def _key(node: Node) -> Hashable:
    operands = tuple(node._operands)
    if len(operands) > 1 and Trait.COMMUTATIVE in node.op.traits and node.attributes.get("alpha", 1) == 1:
        first, second = operands[:2]
        if id(first) > id(second):
            operands = (second, first, *operands[2:])
    return node.op, operands, node.attributes


def _same_regions(a: Node, b: Node) -> bool:
    if len(a.regions) != len(b.regions):
        return False
    return all(structurally_equal(x, y, locations=False) for x, y in zip(a.regions, b.regions))
