"""Two devices, nothing limited, one thing at a time: the best assignment is a minimum cut.

A node on the side of the source is on device 0. An edge that leaves the side of the source is cut, and costs its
capacity:

    source → i     c[i, 1]                    i → sink     c[i, 0]
    p → h → every consumer (no capacity)      p → h: a copy from 0 to 1, once however many consumers there are
    every consumer → h' → p (no capacity)     h' → p: a copy from 1 to 0
    every reader → u → v → every reader       u → v: a weight stored twice
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.passes.partitioning.problem import Ints, Problem

if TYPE_CHECKING:
    import networkx

RESOLUTION = 1 << 48
"""Capacities are whole numbers, up to this one: flows of floating-point numbers need not end."""


def is_minimum_cut(problem: Problem, objective: str) -> bool:
    """Whether `minimum_cut` solves it."""
    return problem.devices == 2 and objective == "serial" and not problem.is_bounded


def minimum_cut(problem: Problem) -> Ints:
    """Return the best assignment by networkx."""
    import networkx

    network = _Network(problem)
    _, (near, _) = networkx.minimum_cut(
        network.graph, "source", "sink", flow_func=networkx.algorithms.flow.boykov_kolmogorov
    )
    return np.array([0 if node in near else 1 for node in range(problem.nodes)], dtype=np.int64)


class _Network:
    def __init__(self, problem: Problem) -> None:
        import networkx

        self.problem = problem
        self.graph: networkx.DiGraph[Any] = networkx.DiGraph()
        finite = problem.seconds[np.isfinite(problem.seconds)]
        self._unit = max(float(finite.max(initial=0.0)), 1e-12) / RESOLUTION
        self.graph.add_nodes_from(["source", "sink", *range(problem.nodes)])
        for node in range(problem.nodes):
            self._edge("source", node, float(problem.seconds[node, 1]))
            self._edge(node, "sink", float(problem.seconds[node, 0]))
        for index in range(len(problem.tensors)):
            self._add_tensor(index)
        for index in range(len(problem.weights)):
            self._add_weight(index)

    def _edge(self, start: Any, end: Any, seconds: float | None = None) -> None:
        """An edge; without seconds, or where they are infinite, it is never cut."""
        if start == end or seconds == 0.0:
            return
        if seconds is None or not np.isfinite(seconds):
            self.graph.add_edge(start, end)
        else:
            self.graph.add_edge(start, end, capacity=round(seconds / self._unit))

    def _node(self, node: int) -> Any:
        return "source" if node < 0 or node == self.problem.nodes else node

    def _add_tensor(self, index: int) -> None:
        tensor = self.problem.tensors[index]
        producer = self._node(tensor.producer)
        consumers = [self._node(c) for c in tensor.consumers]
        there, back = (self.problem.transfer(tensor, a, 1 - a) for a in (0, 1))
        if there and consumers:
            self._edge(producer, ("there", index), there)
            for consumer in consumers:
                self._edge(("there", index), consumer)
        if back and consumers:
            self._edge(("back", index), producer, back)
            for consumer in consumers:
                self._edge(consumer, ("back", index))

    def _add_weight(self, index: int) -> None:
        readers = [self._node(c) for c in self.problem.weights[index].consumers]
        if len(set(readers)) < 2 or not self.problem.loads[index]:
            return
        self._edge(("near", index), ("far", index), float(self.problem.loads[index]))
        for reader in readers:
            self._edge(reader, ("near", index))
            self._edge(("far", index), reader)
