"""Structural equality of graphs: the same up to the names of intermediate values."""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ir.printer import constant_hash
from graphopt.ir.value import Constant, Node, Value


def structurally_equal(a: Graph, b: Graph, *, locations: bool = True) -> bool:
    """True if the graphs have the same inputs, constants, nodes in order, and outputs."""
    return difference(a, b, locations=locations) is None


def difference(a: Graph, b: Graph, *, locations: bool = True) -> str | None:
    """Return the first difference between two graphs as a sentence, or None."""
    if [(v.name, v.type) for v in a.inputs] != [(v.name, v.type) for v in b.inputs]:
        return f"inputs differ: {a.inputs} and {b.inputs}"
    if list(a.constants) != list(b.constants):
        return f"constants differ: {list(a.constants)} and {list(b.constants)}"
    same: dict[Value, Value] = dict(zip(a.inputs, b.inputs))
    for name, value in a.constants.items():
        other = b.constants[name]
        if value.type != other.type or not _same_constant(value.constant, other.constant):
            return f"constant {name!r} differs"
        same[value] = other
    if len(a) != len(b):
        return f"{len(a)} nodes and {len(b)} nodes"
    for left, right in zip(a, b):
        found = _node_difference(left, right, same, locations)
        if found:
            return f"{found}: {left!r} and {right!r}"
        same.update(zip(left.results, right.results))
    if a.mutations != b.mutations or [same.get(v) for v in a.returned] != list(b.returned):
        return "outputs differ"
    return None


def _node_difference(a: Node, b: Node, same: dict[Value, Value], locations: bool) -> str | None:
    if a.op is not b.op:
        return "operators differ"
    if [None if v is None else same.get(v) for v in a.operands] != list(b.operands):
        return "operands differ"
    if a.attributes != b.attributes:
        return "attributes differ"
    if [r.type for r in a.results] != [r.type for r in b.results]:
        return "result types differ"
    if locations and a.location != b.location:
        return "locations differ"
    if len(a.regions) != len(b.regions):
        return "regions differ"
    for x, y in zip(a.regions, b.regions):
        found = difference(x, y, locations=locations)
        if found:
            return f"in a region, {found}"
    return None


def _same_constant(a: Constant | None, b: Constant | None) -> bool:
    if a is None or b is None:
        return a is b
    flags = (a.kind, a.names, a.requires_grad, a.persistent) == (b.kind, b.names, b.requires_grad, b.persistent)
    return flags and (a.tensor is b.tensor or constant_hash(a) == constant_hash(b))
