"""How long values live, and how much memory the intermediate values of a graph need at once."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.analysis.sizes import TypeSizes
from graphopt.ir import Graph, Node, Trait, Value


def last_uses(graph: Graph) -> dict[Value, Node]:
    """Return the last node that uses each value (its producer, if nothing does; the terminator, if it is returned)."""
    last: dict[Value, Node] = {}
    for node in graph:
        for result in node.results:
            last[result] = node
        for operand in node._operands:
            if operand is not None and operand.constant is None:
                last[operand] = node
    for value in graph.returned:
        last[value] = graph.terminator
    return last


def peak_memory(graph: Graph, sizes: Mapping[str, int] | TypeSizes) -> int:
    """Return the largest number of bytes that inputs and intermediate values take at any one node, in node order.

    A value lives from its node to its last use, an input from the start. The result of a view shares the memory of
    what it views. Constants are not counted; a node's regions run on top of what is live around it.

    sizes: of the symbols.
    """
    table = sizes if isinstance(sizes, TypeSizes) else TypeSizes(sizes)
    grown, freed, held = _changes(graph, table)
    peak = sum(table.bytes(v.type) for v in graph.inputs)
    live = held
    for position, node in enumerate(graph):
        inner = max((peak_memory(region, table) for region in node.regions), default=0) if node.regions else 0
        live += grown[position]
        peak = max(peak, live + inner)
        live -= freed[position]
    return peak


def _changes(graph: Graph, table: TypeSizes) -> tuple[list[int], list[int], int]:
    """The bytes that each node adds, those that are free after it, and those of inputs that are used at all."""
    owner: dict[Value, Value] = {}
    last: dict[Value, int] = {}
    grown: list[int] = []
    for position, node in enumerate(graph):
        added = 0
        base = _viewed(node)
        root = None if base is None else owner.get(base, base)
        for result in node.results:
            if root is None:
                last[result] = position
                added += table.bytes(result.type)
            else:
                owner[result] = root
        for operand in node._operands:
            if operand is not None and operand.constant is None:
                last[owner.get(operand, operand)] = position
        grown.append(added)
    for value in graph.returned:
        if value.constant is None:
            last[owner.get(value, value)] = len(grown)
    freed = [0] * (len(grown) + 1)
    for value, position in last.items():
        freed[position] += table.bytes(value.type)
    return grown, freed, sum(table.bytes(v.type) for v in graph.inputs if v in last)


def _viewed(node: Node) -> Value | None:
    """The value whose memory the results of a node share, or None."""
    if Trait.VIEW not in node.op.traits or not node._operands:
        return None
    base = node._operands[0]
    return base if base is not None and base.constant is None else None
