"""Which integer inputs are used as indices, and how long what they index is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from graphopt.ir import Graph, Node, ScalarType, TensorType, Value, walk
from graphopt.ir.dims import Dim

Place = tuple["Value | None", Dim]
"""An operand that holds indices, and the length of the axis that it indexes."""


def index_limits(graph: Graph) -> dict[Value, list[Dim]]:
    """Return, for each integer input, the lengths of the axes that it or what is computed from it indexes.

    What is computed from it counts as long as it is made of integers: an index may be shifted, clipped or reshaped on
    its way. So a limit is no proof for an index that grows on its way, but one for an index that is used as it is.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %i: i64[B]
    ... parameter %table: f32[30, 8]
    ... %j = aten.abs(%i)
    ... %y = aten.embedding(%table, %j)
    ... return %y''')
    >>> index_limits(graph)[graph.inputs[0]]
    [30]
    """
    found: dict[Value, list[Dim]] = {value: [] for value in graph.inputs if _is_integral(value)}
    for node, sources in _with_sources(graph):
        for operand, length in _places(node):
            for source in sources.get(operand, ()) if operand is not None else ():
                found[source].append(length)
    return found


def compared_numbers(graph: Graph) -> dict[Value, list[int]]:
    """Return, for each integer input, the stored numbers that it or what is computed from it is tested to be equal to.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %rate: i64[]
    ... constant %c: i64[] = 16000
    ... %y = aten.eq.Tensor(%rate, %c)
    ... return %y''')
    >>> compared_numbers(graph)[graph.inputs[0]]
    [16000]
    """
    found: dict[Value, list[int]] = {value: [] for value in graph.inputs if _is_integral(value)}
    for node, sources in _with_sources(graph):
        if node.op.base not in ("aten.eq", "aten.ne"):
            continue
        numbers = [n for v in node.operands for n in _stored_number(v)]
        other = node.attributes.get("other")
        numbers += [other] if type(other) is int else []
        for operand in node.operands:
            for source in sources.get(operand, ()) if operand is not None else ():
                found[source] += numbers
    return found


def _stored_number(value: Value | None) -> list[int]:
    if value is None or value.constant is None or value.constant.tensor.numel() != 1 or not _is_integral(value):
        return []
    return [int(value.constant.tensor)]


def _with_sources(graph: Graph) -> Iterator[tuple[Node, dict[Value, set[Value]]]]:
    """Each node, and for the integers that are known there the inputs that they are computed from."""
    sources: dict[Value, set[Value]] = {v: {v} for v in graph.inputs if _is_integral(v)}
    for node in walk(graph):
        yield node, sources
        reached = set[Value]().union(*[sources.get(v, ()) for v in node.operands if v is not None])
        if reached:
            sources.update((value, reached) for value in node.results if _is_integral(value))


def _is_integral(value: Value) -> bool:
    type_ = value.type
    if isinstance(type_, ScalarType):
        return True
    return isinstance(type_, TensorType) and not type_.dtype.is_floating and not type_.dtype.is_complex


def _places(node: Node) -> Iterator[Place]:
    rule = _RULES.get(node.op.base)
    if rule is not None:
        yield from rule(node)


def _along(axis: str | int, index: int) -> Callable[[Node], Iterator[Place]]:
    """The operand at `index` indexes operand 0 along an axis: a number, or the attribute of that name."""

    def rule(node: Node) -> Iterator[Place]:
        shape = _shape(node.operands[0])
        place = node.attributes.get(axis, 0) if isinstance(axis, str) else axis
        if shape and isinstance(place, int) and len(node.operands) > index:
            yield node.operands[index], shape[place]

    return rule


def _by_position(node: Node) -> Iterator[Place]:
    """One operand of indices for each leading axis; None for an axis that is taken whole."""
    yield from zip(node.operands[1:], _shape(node.operands[0]))


def _shape(value: Value | None) -> Sequence[Dim]:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else ()


_RULES: dict[str, Callable[[Node], Iterator[Place]]] = {
    "aten.embedding": _along(0, 1),
    "aten.index_select": _along("dim", 1),
    "aten.gather": _along("dim", 1),
    "aten.scatter": _along("dim", 1),
    "aten.scatter_add": _along("dim", 1),
    "aten.scatter_reduce": _along("dim", 1),
    "aten.index": _by_position,
    "aten.index_put": _by_position,
    "onnx.Gather": _along("axis", 1),
    "onnx.GatherElements": _along("axis", 1),
}
