"""What was generated: graphs, operators, discards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from graphopt.ir import Graph, walk


@dataclass
class GraphStatistics:
    """Counts over generated graphs.

    discarded: graphs with NaN or infinities in an output, for which a numeric comparison says little.
    unsupported: why an engine was not asked, with counts.

    >>> from graphopt.testing import random_graph
    >>> statistics = GraphStatistics()
    >>> statistics.add(random_graph(1))
    >>> statistics.graphs
    1
    """

    graphs: int = 0
    nodes: int = 0
    symbolic: int = 0
    discarded: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)

    def add(self, graph: Graph, *, discarded: bool = False) -> None:
        """Count a graph."""
        self.graphs += 1
        self.nodes += len(graph)
        self.symbolic += bool(graph.symbols())
        self.discarded += discarded
        self.operators.update(node.op.name for node in walk(graph))

    def __str__(self) -> str:
        lines = [
            f"{self.graphs} graphs, {self.symbolic} with symbolic sizes, {self.nodes} nodes, "
            f"{len(self.operators)} operators, {self.discarded} discarded"
        ]
        if self.unsupported:
            lines.append(f"{sum(self.unsupported.values())} graphs not supported by an engine:")
            lines += [f"  {count} {reason}" for reason, count in self.unsupported.most_common()]
        return "\n".join(lines)
