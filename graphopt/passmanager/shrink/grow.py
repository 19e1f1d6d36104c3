"""The neighbourhood of a rewritten node, from small to large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.passmanager.shrink.case import Case, boundary, part, record, tidied

CONE = 4
"""How many steps the search goes up from the node: a rule's pattern is a tree that ends in it."""

BALL = 5
"""How many steps it then goes in all directions: conditions of a rule look at other uses."""


def neighbourhoods(case: Case, roots: Sequence[Node]) -> Iterator[Case]:
    """Yield parts of a case around some of its nodes, each larger than the one before; the whole case comes last."""
    graph = case.graph
    chosen: list[frozenset[Node]] = []
    for nodes in _regions(graph, [n for n in roots if n.graph is graph]):
        if nodes not in chosen and len(nodes) < len(graph):
            chosen.append(nodes)
    chosen.sort(key=len)
    try:
        recorded = record(case, [v for nodes in chosen for v in boundary(graph, nodes)])
    except GraphOptError:
        chosen = []
    for nodes in chosen:
        cut = part(case, nodes, recorded)
        if cut is not None:
            yield cut
    tidy = tidied(case)
    if tidy is not None:
        yield tidy
    yield case


def _regions(graph: Graph, roots: Sequence[Node]) -> Iterator[frozenset[Node]]:
    if not roots:
        return
    cone = ball = frozenset(roots)
    yield cone
    for _ in range(CONE):
        cone |= {v.producer for n in cone for v in n.inputs if v.producer is not None}
        yield cone
    for _ in range(BALL):
        ball |= {near for n in ball for near in _neighbours(graph, n)}
        yield ball


def _neighbours(graph: Graph, node: Node) -> Iterable[Node]:
    """Producers, users, and other users of what the node uses."""
    values: list[Value] = [*node.inputs, *node.results]
    for value in values:
        if value.producer is not None:
            yield value.producer
        for use in value.uses:
            if use.node is not graph.terminator:
                yield use.node
