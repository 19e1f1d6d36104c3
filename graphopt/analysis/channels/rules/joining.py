"""Concatenation and its inverses: plain indexing of atoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.analysis.channels.atoms import Ids
from graphopt.analysis.channels.axes import (
    Axis,
    Factor,
    State,
    as_int,
    axis_state,
    is_static,
    is_tracked,
    merged,
    with_state,
    zero_or_varying,
)
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Dim, Node


@rule("cat concat concatenate")
def cat(t: Tracker, node: Node) -> None:
    """The atoms of the parts one after the other; the other dims are coupled."""
    parts = [v for v in t.operands() if v.shape != (0,)] or list(t.operands())
    rank = len(parts[0].shape)
    place = node.attr("dim") % rank
    axes: list[Axis] = []
    for dim in range(rank):
        owns = [t.axes(v)[dim] for v in parts]
        if dim == place:
            axes.append(join(t, owns, [v.shape[dim] for v in parts], node.results[0].shape[dim]))
            continue
        axis = owns[0]
        for other in owns[1:]:
            axis = zero_or_varying(t.equate(axis, other, "concatenated beside"))
        axes.append(axis)
    t.set(axes)


def join(t: Tracker, parts: list[Axis], sizes: list[Dim], size: Dim) -> Axis:
    """The dims one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not any(is_tracked(p) for p in parts):
        return t.opaque(size, "concatenated, none of it removable")
    if not all(isinstance(s, int) and is_static(p) for s, p in zip(sizes, parts)):
        for part in parts:
            t.freeze(part, "concatenated with a part of symbolic size")
        return t.opaque(size, "concatenated with a part of symbolic size")
    columns = [_columns(t, part, as_int(s)) for part, s in zip(parts, sizes)]
    width = max(c.shape[1] for c in columns)
    atoms = np.concatenate([np.pad(c, ((0, 0), (0, width - c.shape[1]))) for c in columns])
    sources = tuple(dict.fromkeys(s for p in parts for f in p for s in f.sources))
    return (Factor(len(atoms), atoms, 0, max(axis_state(p) for p in parts), sources),)


def _columns(t: Tracker, axis: Axis, size: int) -> Ids:
    factor = merged(axis) if axis else Factor(1)
    if factor.atoms is not None:
        return factor.atoms
    frozen = t.atoms.fresh(1)
    t.atoms.freeze(frozen, factor.reason or t.reason("concatenated, none of it removable"))
    return np.full((size, 1), frozen[0])


def take(t: Tracker, axis: Axis, index: Ids, text: str) -> Axis:
    """Slots of a dim at static positions."""
    if not is_tracked(axis):
        reason = axis[0].reason if axis else t.reason(text)
        return () if len(index) == 1 else (Factor(len(index), None, reason),)
    factor = merged(axis)
    assert factor.atoms is not None
    if len(index) == 1:
        t.freeze((replace(factor, atoms=factor.atoms[index]),), f"{text}: one slot alone")
        return ()
    return (replace(factor, size=len(index), atoms=factor.atoms[index]),)


@rule("stack")
def stack(t: Tracker, node: Node) -> None:
    """A new dim of as many slots as operands, which all stay; the other dims are coupled."""
    parts = list(t.operands())
    axes = list(t.axes(parts[0]))
    for part in parts[1:]:
        axes = [zero_or_varying(t.equate(a, b, "stacked")) for a, b in zip(axes, t.axes(part))]
    axes.insert(node.attr("dim") % (len(axes) + 1), t.opaque(len(parts), "stacked"))
    t.set(axes)


@rule("pad constant_pad_nd")
def pad(t: Tracker, node: Node) -> None:
    """Slots added before and after, which stay."""
    x = next(t.operands())
    arguments = node.arguments()
    value = arguments.get("value")
    constant = arguments.get("mode", "constant") == "constant"
    axes = list(t.axes(x))
    amounts = arguments["pad"]
    padded = {len(axes) - 1 - i // 2 for i, amount in enumerate(amounts) if amount != 0}
    for dim, axis in enumerate(axes):
        if dim in padded:
            before, after = amounts[2 * (len(axes) - 1 - dim) : 2 * (len(axes) - dim)]
            axes[dim] = _padded(t, axis, x.shape[dim], before, after, constant, node.result.shape[dim])
        if constant and padded - {dim} and (value not in (None, 0) or axis_state(axis) is not State.ZERO):
            axes[dim] = with_state(axes[dim], State.VARYING)
    t.set(axes)


def _padded(t: Tracker, axis: Axis, size: Dim, before: Dim, after: Dim, constant: bool, result: Dim) -> Axis:
    static = all(isinstance(d, int) for d in (size, before, after)) and is_static(axis)
    if not is_tracked(axis) or not static or not constant:
        t.freeze(axis, "padded")
        return t.opaque(result, "padded")
    low, high, length = as_int(before), as_int(after), as_int(size)
    if low < 0 or high < 0:
        axis = take(t, axis, np.arange(max(-low, 0), length - max(-high, 0)), "pad")
        low, high, length = max(low, 0), max(high, 0), length + min(low, 0) + min(high, 0)
    edges = [t.opaque(n, "padding") if n else () for n in (low, high)]
    parts = [(a, n) for a, n in ((edges[0], low), (axis, length), (edges[1], high)) if n]
    return join(t, [a for a, _ in parts], [n for _, n in parts], result)


@rule("flip")
def flip(t: Tracker, node: Node) -> None:
    """The slots in reverse."""
    x = next(t.operands())
    axes = list(t.axes(x))
    for dim in node.attr("dims"):
        dim %= len(axes)
        if is_tracked(axes[dim]):
            if isinstance(x.shape[dim], int) and is_static(axes[dim]):
                axes[dim] = take(t, axes[dim], np.arange(x.shape[dim])[::-1], "flip")
            else:
                t.freeze(axes[dim], "flip of a dim of symbolic size")
    t.set(axes)


@rule("select_scatter slice_scatter diagonal_scatter")
def scatter_slice(t: Tracker, node: Node) -> None:
    """Some slots of one dim are overwritten: all of it stays; the other dims are coupled."""
    x, source = t.operands()
    if node.op.base == "aten.diagonal_scatter":
        t.freeze_all(x, "its diagonal is overwritten")
        t.freeze_all(source, "written to a diagonal")
        return
    axes, written = list(t.axes(x)), list(t.axes(source))
    dim = node.attr("dim") % len(axes)
    if node.op.base == "aten.select_scatter":
        written.insert(dim, ())
    for axis in (axes[dim], written[dim]):
        t.freeze(axis, "partly overwritten")
    for place, (own, new) in enumerate(zip(axes, written)):
        if place == dim:
            axes[dim] = t.opaque(node.result.shape[dim], "partly overwritten")
        else:
            axes[place] = zero_or_varying(t.equate(own, new, "overwritten"))
    t.set(axes)
