"""How long values live, and how much memory the intermediate values of a graph need at once."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from graphopt.ir import Graph, Node, TensorType, Trait, Type, Value
from graphopt.ir.dims import evaluate


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


def peak_memory(graph: Graph, bindings: Mapping[str, int]) -> int:
    """Return the largest number of bytes that inputs and intermediate values take at any one node, in node order.

    A value lives from its node to its last use, an input from the start. The result of a view shares the memory of
    what it views. Constants are not counted; a node's regions run on top of what is live around it.
    """
    owner: dict[Value, Value] = {value: value for value in graph.inputs}
    last = last_uses(graph)
    ends = _ends(graph, owner, last)
    peak = sum(type_bytes(v.type, bindings) for v in graph.inputs)
    live = sum(type_bytes(v.type, bindings) for v in graph.inputs if v in last)
    for node in graph:
        fresh = sum(type_bytes(r.type, bindings) for r in node.results if owner[r] is r)
        inner = max((peak_memory(region, bindings) for region in node.regions), default=0)
        live += fresh
        peak = max(peak, live + inner)
        live -= sum(type_bytes(v.type, bindings) for v in ends.get(node, ()))
    return peak


def _ends(graph: Graph, owner: dict[Value, Value], expiry: Mapping[Value, Node]) -> dict[Node, list[Value]]:
    """For each node, the memory that is free after it: an owner's, once its last alias is."""
    order: dict[Node, int] = {}
    last: dict[Value, int] = {}
    nodes = [*graph, graph.terminator]
    for position, node in enumerate(nodes):
        order[node] = position
        base = node._operands[0] if node._operands else None
        shares = Trait.VIEW in node.op.traits and base is not None and base.constant is None
        for result in node.results:
            owner[result] = owner.get(base, base) if shares and base is not None else result
    for value, node in expiry.items():
        root = owner.get(value, value)
        last[root] = max(last.get(root, -1), order[node])
    ends: dict[Node, list[Value]] = {}
    for value, position in last.items():
        if value.constant is None:
            ends.setdefault(nodes[position], []).append(value)
    return ends


def type_bytes(type_: Type, bindings: Mapping[str, int]) -> int:
    """Return the size of a tensor of this type in bytes; 0 for what is no tensor."""
    if not isinstance(type_, TensorType):
        return 0
    numel = prod(d if isinstance(d, int) else max(evaluate(d, bindings), 0) for d in type_.shape)
    return (numel * type_.dtype.bits + 7) // 8
