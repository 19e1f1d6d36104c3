"""Running a graph on several samples at once, node by node: what a node gives on all of them is seen before the next.

So something can be put right at a node, and every later node then sees it put right, in a single run. Samples keep
their own tensors, so the kernels compute the same bits as on one sample alone. Memory is that of all live values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.bindings import bind_fresh, bind_sizes
from graphopt.ir import Graph, Node, Value

Watcher = Callable[[Node, list[list[Any]]], None]
"""Called with a node and its results on each sample; it may write to them."""


class Lockstep(Interpreter):
    """Runs a graph on sets of inputs side by side."""

    def run_all(self, sets: Sequence[Sequence[Any]], watch: Watcher) -> None:
        """Run, and show each node's results on all sets to `watch`."""
        states: list[dict[Value, Any]] = [dict(zip(self.graph.inputs, given)) for given in sets]
        sizes = [bind_sizes(self.graph.inputs, given) for given in sets]
        dying = _last_readers(self.graph)
        with torch.no_grad():
            for node in self.graph:
                found = [self._one(node, state, bindings) for state, bindings in zip(states, sizes)]
                watch(node, found)
                for state, bindings, results in zip(states, sizes, found):
                    for value, result in zip(node.results, results):
                        state[value] = result
                        bind_fresh(bindings, value.type, result)
                    for value in dying.get(node, ()):
                        state.pop(value, None)

    def _one(self, node: Node, state: dict[Value, Any], bindings: dict[str, int]) -> list[Any]:
        operands = [None if v is None else state[v] if v.constant is None else self.constant(v) for v in node.operands]
        return list(self._evaluate(node, operands, bindings))


def _last_readers(graph: Graph) -> dict[Node, list[Value]]:
    """The values that nothing after a node reads."""
    last = {value: node for node in graph for value in (*node.results, *node.inputs) if value.constant is None}
    found: dict[Node, list[Value]] = {}
    for value, node in last.items():
        found.setdefault(node, []).append(value)
    return found
