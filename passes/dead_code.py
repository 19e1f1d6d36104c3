"""Drop what no output depends on: nodes, constants, and results and operands of control flow.

    %y = f(%x)      # %y unused, f pure   →   (nothing)

Bitwise: nothing that is computed for an output changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from graphopt.ir import ConstantKind, Graph, Node, Trait, Value
from graphopt.ops.effects import is_removable
from graphopt.passes.support.regions import drop_unused_operands, drop_unused_results, graph_and_regions
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter, RewriteStatistics


@dataclass(frozen=True)
class DeadCode(Pass):
    """Remove unused nodes and constants. A node stays if it is an effect, or if an output needs it.

    constants: also remove unused constants. Those that the graph updates stay; so do the parameters and buffers of
        a graph that is to be trained, since they belong to its state.
    """

    contract = Contract.BITWISE

    constants: bool = True

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place; linear in nodes + uses."""
        statistics = RewriteStatistics()
        # A region's results can die only with their node's, so outer graphs go first.
        for inner in reversed(graph_and_regions(graph)):
            self._sweep(inner, context, statistics)
        return PassResult(statistics.changes > 0, statistics)

    def _sweep(self, graph: Graph, context: PassContext, statistics: RewriteStatistics) -> None:
        rewriter = Rewriter(graph, context.listeners)
        removable = context.removable or partial(is_removable, trainable=context.trainable)
        for node in reversed(graph):
            if not any(r._uses for r in node.results):
                if removable(node) and (context.gate is None or context.gate(self.name, node)):
                    rewriter.erase(node)
                    statistics.erased += 1
            elif Trait.REGION in node.op.traits:
                self._trim(node, rewriter, statistics)
        if self.constants:
            for value in tuple(graph.constants.values()):
                if not value._uses and value.name not in graph.mutations and not _is_state(value, context):
                    rewriter.drop_constant(value)
                    statistics.rule("drop-constant").applied += 1

    def _trim(self, node: Node, rewriter: Rewriter, statistics: RewriteStatistics) -> None:
        trimmed = drop_unused_results(node, rewriter)
        if trimmed is not node:
            statistics.rule("drop-result").applied += 1
        if drop_unused_operands(trimmed, rewriter) is not trimmed:
            statistics.rule("drop-operand").applied += 1


def _is_state(value: Value, context: PassContext) -> bool:
    return context.trainable and value.constant is not None and value.constant.kind is not ConstantKind.CONSTANT
