"""Look-ups: rows are chosen by data, so they stay; the columns are channels."""

from __future__ import annotations

from typing import Any

from graphopt.analysis.channels.axes import Axis, axis_state, with_state, zero_or_varying
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Node, TensorType


@rule("embedding")
def embedding(t: Tracker, node: Node) -> None:
    """[V, D] by […] → […, D]."""
    arguments = node.arguments()
    weight, indices = arguments["weight"], arguments["indices"]
    rows, columns = t.axes(weight)
    t.freeze(rows, "rows that are looked up by number")
    t.play(rows, Role.OUT)
    for axis in t.axes(indices):
        t.freeze(axis, "numbers of rows to look up")
    axes = [t.opaque(d, "numbers of rows to look up") for d in indices.shape]
    state = axis_state(columns)
    t.play(columns, Role.OUT)
    t.set([*axes, with_state(columns, state)])


@rule("gather take_along_dim")
def gather(t: Tracker, node: Node) -> None:
    """Elements chosen along one dim; the others pass through where the index has all their slots."""
    x, index = list(t.operands())[:2]
    dim = node.arguments().get("dim")
    if dim is None or len(x.shape) != len(index.shape):
        freeze_operands(t, node, "gathered by data")
        return
    dim %= len(x.shape)
    axes: list[Axis] = []
    for place, (own, chosen) in enumerate(zip(t.axes(x), t.axes(index))):
        if place == dim or x.shape[place] != index.shape[place]:
            t.freeze(own, "gathered by data")
            t.freeze(chosen, "gathered by data")
            axes.append(t.opaque(index.shape[place], "gathered by data"))
        else:
            axis = t.equate(own, chosen, "gathered") if own and chosen else own or chosen
            axes.append(with_state(axis, axis_state(own)))
    t.set(axes)


@rule("index_select")
def index_select(t: Tracker, node: Node) -> None:
    """Slots of one dim chosen by data."""
    x, index = list(t.operands())
    axes = list(t.axes(x))
    dim = node.attr("dim") % len(axes)
    t.freeze(axes[dim], "indexed by data")
    t.freeze_all(index, "numbers of slots")
    axes[dim] = t.opaque(node.result.shape[dim], "indexed by data")
    t.set(axes)


@rule("index")
def index(t: Tracker, node: Node) -> None:
    """Advanced indexing: indexed dims stay, the others pass through."""
    x, *_ = list(t.operands())
    indices = node.arguments()["indices"]
    own = t.axes(x)
    for value in indices:
        if value is not None:
            t.freeze_all(value, "an index")
    indexed = _indexed_dims(indices)
    for dim in indexed:
        t.freeze(own[dim], "indexed by data")
    shape = node.result.shape
    kept = [d for d in range(len(own)) if d not in indexed]
    width = len(shape) - len(kept)
    consecutive = bool(indexed) and indexed == list(range(indexed[0], indexed[-1] + 1))
    place = indexed[0] if consecutive else 0
    axes = [own[d] for d in kept]
    axes[place:place] = [t.opaque(d, "indexed by data") for d in shape[place : place + width]]
    t.set(axes)


def _indexed_dims(indices: tuple[Any, ...]) -> list[int]:
    """The dims that the given indices take; a mask takes as many as it has."""
    dims: list[int] = []
    dim = 0
    for value in indices:
        if value is None:
            dim += 1
            continue
        count = len(value.shape) if value.dtype.value in ("bool", "u8") else 1
        dims += range(dim, dim + count)
        dim += count
    return dims


def freeze_operands(t: Tracker, node: Node, text: str) -> None:
    """Nothing that goes in or comes out may be removed."""
    for value in t.operands():
        t.freeze_all(value, text)
    for number, result in enumerate(node.results):
        if isinstance(result.type, TensorType):
            t.opaque_result(number, text)


@rule("index_add index_copy")
def index_add(t: Tracker, node: Node) -> None:
    """Slots of one dim written at numbers that are data; the other dims are coupled."""
    x, index, source = t.operands()
    axes = list(t.axes(x))
    dim = node.attr("dim") % len(axes)
    t.freeze_all(index, "numbers of slots")
    for axis in (axes[dim], t.axes(source)[dim]):
        t.freeze(axis, "written at places that are data")
    for place, other in enumerate(t.axes(source)):
        if place == dim:
            axes[dim] = t.opaque(node.result.shape[dim], "written at places that are data")
        else:
            axes[place] = zero_or_varying(t.equate(axes[place], other, "written into"))
    t.set(axes)
