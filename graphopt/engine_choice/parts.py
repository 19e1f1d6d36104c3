"""Cutting a graph into parts that run one after another.

A cut between two nodes is as wide as the number of values that were made before it and are used behind it. Only narrow
cuts are taken: what crosses is handed over at each run. Inputs of the graph are at hand everywhere, and cross nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.analysis import CostModel
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ir.types import type_symbols
from graphopt.ops.effects import has_effect, is_random
from graphopt.targets import Executable

MOST_PARTS = 5
WIDEST = 2
_FLOPS_PER_BYTE = 10
"""About what a core does in the time in which it reads a byte of memory."""


@dataclass(frozen=True)
class GraphPart:
    """Some nodes as a graph of their own. inputs, outputs: the values of the whole that it takes and gives."""

    graph: Graph
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def is_divisible(graph: Graph) -> bool:
    """Whether parts compute what the whole does: nothing is drawn, written back, or decided by sizes in the data."""
    known = set(graph.symbols())
    return (
        not graph.mutations
        and all(value.constant is None for value in graph.returned)
        and not any(node.regions or has_effect(node) or is_random(node) for node in graph)
        and all(set(type_symbols(result.type)) <= known for node in graph for result in node.results)
    )


def cuts(graph: Graph, sizes: Mapping[str, int], most: int = MOST_PARTS) -> list[int]:
    """Return up to `most - 1` positions of narrow cuts, so that each part costs about the same.

    A cut at position p is between the nodes p - 1 and p. Near where equal shares would end, the cut with the fewest
    bytes is taken. sizes: of the symbols.
    """
    costs = CostModel(sizes)
    total, done = 0.0, [0.0]
    for node in graph:
        cost = costs.node(node)
        total += cost.flops + _FLOPS_PER_BYTE * cost.bytes
        done.append(total)
    narrow = _narrow(graph, costs)
    found: list[int] = []
    for share in range(1, most):
        wanted, reach = total * share / most, 0.5 * total / most
        near = [p for p in narrow if abs(done[p] - wanted) < reach and (not found or p > found[-1])]
        if near:
            found.append(min(near, key=lambda p: (narrow[p], abs(done[p] - wanted))))
    return found


def _narrow(graph: Graph, costs: CostModel) -> dict[int, int]:
    """The positions of narrow cuts, with the bytes that cross."""
    nodes = graph.nodes
    position = {node: index for index, node in enumerate(nodes)}
    last: dict[Value, int] = {}
    for index, node in enumerate(nodes):
        last.update((value, index) for value in node.inputs if value.producer is not None)
    last.update((value, len(nodes)) for value in graph.returned if value.producer is not None)
    starts: dict[int, list[Value]] = {}
    ends: dict[int, list[Value]] = {}
    for value, end in last.items():
        assert value.producer is not None
        starts.setdefault(position[value.producer] + 1, []).append(value)
        ends.setdefault(end + 1, []).append(value)
    live: dict[Value, None] = {}
    found: dict[int, int] = {}
    for cut in range(1, len(nodes)):
        live.update(dict.fromkeys(starts.get(cut, ())))
        for value in ends.get(cut, ()):
            live.pop(value, None)
        if 0 < len(live) <= WIDEST and all(isinstance(value.type, TensorType) for value in live):
            found[cut] = sum(costs.sizes.bytes(value.type) for value in live)
    return found


def split(graph: Graph, ends: Sequence[int]) -> list[GraphPart]:
    """Split a graph into parts that end at these positions, the last of them that of the graph itself."""
    nodes = graph.nodes
    return [_part(graph, nodes[start:end]) for start, end in zip([0, *ends], ends)]


def _part(graph: Graph, nodes: Sequence[Node]) -> GraphPart:
    """Nodes as a graph. An input of the whole that says how large a symbol is comes along where the symbol is used."""
    inside = set(nodes)
    taken = dict.fromkeys(v for n in nodes for v in n.inputs if v.constant is None and v.producer not in inside)
    types = [v.type for n in nodes for v in (*n.inputs, *n.results)]
    used = {s for t in types for s in type_symbols(t)} | {s for n in nodes for s in n.attributes.symbols}
    taken.update(dict.fromkeys(v for v in graph.inputs if used & set(type_symbols(v.type))))
    given = [result for node in nodes for result in node.results if any(use.node not in inside for use in result.uses)]
    part = Graph(graph.name)
    values: dict[Value, Value] = {}
    for index, value in enumerate(taken):
        values[value] = part.add_input(f"taken_{index}", value.type)
    for value in dict.fromkeys(v for n in nodes for v in n.inputs if v.constant is not None):
        assert value.constant is not None
        values[value] = part.add_constant(value.name, value.type, value.constant)
    for node in nodes:
        part.append(node.copy(values))
    part.set_outputs([values[value] for value in given])
    return GraphPart(part, tuple(taken), tuple(given))


class Chain:
    """Parts that run one after another, as one executable."""

    def __init__(self, graph: Graph, parts: Sequence[GraphPart], loaded: Sequence[Executable]) -> None:
        slots: dict[Value, int] = {value: index for index, value in enumerate(graph.inputs)}
        for part in parts:
            for value in part.outputs:
                slots[value] = len(slots)
        self._steps = [
            (one, [slots[v] for v in part.inputs], [slots[v] for v in part.outputs])
            for part, one in zip(parts, loaded, strict=True)
        ]
        self._empty = [None] * (len(slots) - len(graph.inputs))
        self._returned = [slots[value] for value in graph.returned]

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs."""
        values = [*inputs, *self._empty]
        for executable, taken, given in self._steps:
            for slot, value in zip(given, executable.run([values[i] for i in taken])):
                values[slot] = value
        return [values[slot] for slot in self._returned]
