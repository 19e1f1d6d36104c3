"""Where the nodes of a graph run, by their types; what crosses between devices; and what each device holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphopt.analysis.liveness import peak_memory
from graphopt.analysis.sizes import TypeSizes
from graphopt.ir import Graph, Node, OptionalType, SequenceType, TensorType, Trait, Type, Value
from graphopt.ops.copy import COPY


@dataclass(frozen=True)
class Segment:
    """Nodes that run on one device, in order. Whatever they read from another segment is ready before they start."""

    device: str
    nodes: tuple[Node, ...]


def type_device(type_: Type) -> str | None:
    """The device of a type; None for what is no tensor, and so is everywhere."""
    if isinstance(type_, TensorType):
        return type_.device
    return type_device(type_.element) if isinstance(type_, SequenceType | OptionalType) else None


def node_device(node: Node) -> str | None:
    """Where a node runs: where its results are; without results that are somewhere, where its operands are.

    A copy runs on the device that it copies to.
    """
    values = (*node.results, *node.inputs)
    return next((d for d in (type_device(value.type) for value in values) if d is not None), None)


def copies_of(graph: Graph) -> Iterator[Node]:
    """The copies between devices."""
    return (node for node in graph if node.op.name == COPY)


def segments(graph: Graph) -> list[Segment]:
    """Split a graph into segments, in an order in which they can run one after another.

    A node's level is one more than that of an operand on another device; a segment is what shares device and level. So
    every edge stays in a segment or leads to a higher level: there are no cycles, and a segment is convex. Nodes whose
    results are numbers stand with what they read. O(nodes + uses).
    """
    level: dict[Node, int] = {}
    device: dict[Node, str] = {}
    found: dict[tuple[int, str], list[Node]] = {}
    for node in graph:
        before = [v.producer for v in node.inputs if v.producer is not None]
        own = node_device(node) or next((device[p] for p in before), "")
        device[node] = own
        level[node] = max((level[p] + (device[p] != own) for p in before), default=0)
        found.setdefault((level[node], own), []).append(node)
    return [Segment(key[1], tuple(found[key])) for key in sorted(found, key=lambda key: key[0])]


REORDERING = frozenset(["permute", "transpose", "t", "movedim", "swapaxes", "expand", "expand_as"])
"""Views that leave elements in an order that no reshape can keep without a copy."""


def viewed_value(node: Node) -> Value | None:
    """The value (a stored one, too) whose memory the results of a node share, or None. A reshape copies what was put in
    another order."""
    if Trait.VIEW not in node.op.traits or not node._operands:
        return None
    base, name = node._operands[0], _base_name(node)
    if base is None or name == "clone":
        return None
    producer = base.producer
    while name in ("reshape", "contiguous", "flatten") and producer is not None and Trait.VIEW in producer.op.traits:
        if _base_name(producer) in REORDERING:
            return None
        if _base_name(producer) in ("clone", "contiguous") or not producer._operands:
            break
        above = producer._operands[0]
        producer = None if above is None else above.producer
    return base


def _base_name(node: Node) -> str:
    return node.op.name.split(".")[1]


def device_peaks(graph: Graph, sizes: Mapping[str, int] | TypeSizes) -> dict[str, int]:
    """Return the most bytes that each device holds at once, in node order: its constants, and what is live on it.

    A value lives from its node to its last use, an input that is used from the start. The result of a view shares the
    memory of what it views. A node's regions run on top of what is live on its device.
    """
    table = sizes if isinstance(sizes, TypeSizes) else TypeSizes(sizes)
    owner, last = _owners(graph)
    freed: dict[int, list[Value]] = {}
    for value, position in last.items():
        freed.setdefault(position, []).append(value)
    live: dict[str, int] = {}
    stored: dict[str, int] = {}
    for value in graph.constants.values():
        if value.num_uses:
            _add(stored, value, table)
    for value in graph.inputs:
        if value in last:
            _add(live, value, table)
    peak = dict(live)
    for position, node in enumerate(graph):
        for result in node.results:
            if owner.get(result, result) is result:
                _add(live, result, table)
        own = node_device(node)
        inner = max((peak_memory(region, table) for region in node.regions), default=0) if node.regions else 0
        for device, held in live.items():
            peak[device] = max(peak.get(device, 0), held + (inner if device == own else 0))
        for value in freed.get(position, ()):
            _add(live, value, table, -1)
    return {device: stored.get(device, 0) + peak.get(device, 0) for device in {**stored, **peak}}


def _owners(graph: Graph) -> tuple[dict[Value, Value], dict[Value, int]]:
    """The value whose memory each result of a view shares, and the last position that uses each value's memory."""
    owner: dict[Value, Value] = {}
    last: dict[Value, int] = {}
    count = 0
    for count, node in enumerate(graph, start=1):
        base = viewed_value(node)
        for result in node.results:
            if base is not None:
                owner[result] = owner.get(base, base)
            else:
                last[result] = count - 1
        for operand in node._operands:
            if operand is not None and operand.constant is None:
                last[owner.get(operand, operand)] = count - 1
    for value in graph.returned:
        if value.constant is None:
            last[owner.get(value, value)] = count
    return owner, {value: position for value, position in last.items() if value.constant is None}


def _add(held: dict[str, int], value: Value, table: TypeSizes, sign: int = 1) -> None:
    device = type_device(value.type)
    if device is not None:
        held[device] = held.get(device, 0) + sign * table.bytes(value.type)
