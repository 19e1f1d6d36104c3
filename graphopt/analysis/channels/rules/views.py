"""Operators that rearrange dims: product structure is kept, split and merged."""

from __future__ import annotations

import numpy as np

from graphopt.analysis.channels.axes import Axis, State, axis_state, is_static, is_tracked, with_state
from graphopt.analysis.channels.rules.convolution import split_axis
from graphopt.analysis.channels.rules.joining import take
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node


@rule("reshape view _unsafe_view flatten unflatten")
def reshape(t: Tracker, node: Node) -> None:
    """The factors of all dims, regrouped."""
    t.set(_reshaped(t, node))


@rule("view_as reshape_as")
def reshape_as(t: Tracker, node: Node) -> None:
    """The shape of another tensor, which it keeps."""
    other = list(t.operands())[1]
    t.set([with_state(t.equate(a, b, "same shape"), axis_state(a)) for a, b in zip(_reshaped(t, node), t.axes(other))])


def _reshaped(t: Tracker, node: Node) -> list[Axis]:
    factors = [f for axis in t.axes(next(t.operands())) for f in axis]
    return t.regrouper(f"{node.op.base} into parts that don't fit").reshape(factors, node.result.shape)


@rule("permute")
def permute(t: Tracker, node: Node) -> None:
    """Dims in another order."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    t.set([axes[d] for d in node.attr("dims")])


@rule("transpose swapaxes swapdims")
def transpose(t: Tracker, node: Node) -> None:
    """Two dims exchanged."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    first, second = (node.attr(name) for name in [p.name for p in node.op.attribute_params][:2])
    if axes:
        axes[first], axes[second] = axes[second], axes[first]
    t.set(axes)


@rule("t numpy_T mT")
def reverse(t: Tracker, node: Node) -> None:
    """All dims in reverse."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    t.set(axes[:-2] + axes[-2:][::-1] if node.op.base == "aten.mT" else axes[::-1])


@rule("squeeze")
def squeeze(t: Tracker, node: Node) -> None:
    """Dims of size 1 dropped."""
    x = node.operands[0]
    assert x is not None
    axes = t.axes(x)
    dropped = node.arguments().get("dim")
    if dropped is None:
        kept = [d for d in range(len(axes)) if x.shape[d] != 1]
    else:
        dims = {d % len(axes) for d in (dropped if isinstance(dropped, tuple) else (dropped,))} if axes else set()
        kept = [d for d in range(len(axes)) if d not in dims or x.shape[d] != 1]
    t.set([axes[d] for d in kept])


@rule("unsqueeze")
def unsqueeze(t: Tracker, node: Node) -> None:
    """A new dim of size 1."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    axes.insert(node.attr("dim") % (len(axes) + 1), ())
    t.set(axes)


@rule("slice")
def slice_(t: Tracker, node: Node) -> None:
    """A range of one dim."""
    x = node.operands[0]
    assert x is not None
    axes = list(t.axes(x))
    dim = node.attr("dim") % len(axes)
    size = x.shape[dim]
    if node.result.shape[dim] == size:
        t.set(axes)
        return
    bounds = node.attr("start"), node.attr("end"), node.attr("step")
    if isinstance(size, int) and is_static(axes[dim]) and all(b is None or isinstance(b, int) for b in bounds):
        axes[dim] = take(t, axes[dim], np.arange(size)[slice(*bounds)], "slice")
    else:
        t.freeze(axes[dim], "slice with symbolic bounds")
        axes[dim] = t.opaque(node.result.shape[dim], "slice with symbolic bounds")
    t.set(axes)


@rule("split split_with_sizes chunk unbind tensor_split")
def split(t: Tracker, node: Node) -> None:
    """Consecutive ranges of one dim."""
    x = node.operands[0]
    assert x is not None
    dim = node.attr("dim") % len(x.shape)
    unbinds = node.op.base == "aten.unbind"
    start = 0
    for index, result in enumerate(node.results):
        axes = list(t.axes(x))
        size = 1 if unbinds else result.shape[dim]
        part: Axis
        if not is_tracked(axes[dim]):
            part = t.opaque(size, "part of a dim that is not removable")
        elif not isinstance(size, int) or not is_static(axes[dim]):
            t.freeze(axes[dim], "split into symbolic sizes")
            part = t.opaque(size, "split into symbolic sizes")
        else:
            part = take(t, axes[dim], np.arange(start, start + size), node.op.base)
            start += size
        axes[dim : dim + 1] = [] if unbinds else [part]
        t.set(axes, index)


@rule("select")
def select(t: Tracker, node: Node) -> None:
    """One slot of a dim: it must stay."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    dim = node.attr("dim") % len(axes)
    index = node.attr("index")
    if is_tracked(axes[dim]):
        if isinstance(index, int) and is_static(axes[dim]):
            take(t, axes[dim], np.array([index]), "select")
        else:
            t.freeze(axes[dim], "select at a symbolic index")
    del axes[dim]
    t.set(axes)


@rule("movedim moveaxis")
def movedim(t: Tracker, node: Node) -> None:
    """Some dims moved; the others keep their order."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    source, target = ([d % len(axes) for d in _tuple(node.attr(n))] for n in ("source", "destination"))
    placed = dict(zip(target, source))
    others = iter([d for d in range(len(axes)) if d not in source])
    t.set([axes[placed[i] if i in placed else next(others)] for i in range(len(axes))])


def _tuple(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


@rule("repeat tile")
def repeat(t: Tracker, node: Node) -> None:
    """Whole copies one after the other: (copies, slots)."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    counts = node.attr("repeats" if node.op.base == "aten.repeat" else "dims")
    rank = max(len(axes), len(counts))
    axes = ((),) * (rank - len(axes)) + axes
    counts = (1,) * (rank - len(counts)) + tuple(counts)
    t.set([(*t.opaque(n, "copies"), *axis) for n, axis in zip(counts, axes)])


@rule("repeat_interleave.self_int")
def repeat_interleave(t: Tracker, node: Node) -> None:
    """Copies of each slot side by side: (slots, copies)."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    dim, copies = node.attr("dim"), t.opaque(node.attr("repeats"), "copies")
    if dim is None:
        t.set([(*[f for axis in axes for f in axis], *copies)])
        return
    axes[dim] = (*axes[dim], *copies)
    t.set(axes)


@rule("pixel_shuffle")
def pixel_shuffle(t: Tracker, node: Node) -> None:
    """[…, (C, r, r), H, W] → […, C, H·r, W·r]."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    channels, rest = split_axis(t, axes[-3], node.result.shape[-3], "pixel_shuffle")
    t.freeze(rest, "places of a pixel shuffle")
    for axis in axes[-2:]:
        t.freeze(axis, "spatial dim of a pixel shuffle")
    t.set([*axes[:-3], channels, *[t.opaque(d, "spatial dim of a pixel shuffle") for d in node.result.shape[-2:]]])


@rule("pixel_unshuffle")
def pixel_unshuffle(t: Tracker, node: Node) -> None:
    """[…, C, H·r, W·r] → […, (C, r, r), H, W]."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    factor = node.attr("downscale_factor")
    for axis in axes[-2:]:
        t.freeze(axis, "spatial dim of a pixel shuffle")
    channels = (*axes[-3], *t.opaque(factor * factor, "places of a pixel shuffle"))
    t.set([*axes[:-3], channels, *[t.opaque(d, "spatial dim of a pixel shuffle") for d in node.result.shape[-2:]]])


@rule("channel_shuffle native_channel_shuffle")
def channel_shuffle(t: Tracker, node: Node) -> None:
    """[N, (G, C/G), …] → [N, (C/G, G), …]."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    rows, columns = split_axis(t, axes[1], node.attr("groups"), "channel_shuffle")
    axes[1] = (*columns, *rows)
    t.set(axes)


@rule("im2col")
def im2col(t: Tracker, node: Node) -> None:
    """[N, C, H, W] → [N, (C, window), places]."""
    x = next(t.operands())
    axes = t.axes(x)
    for axis in axes[-2:]:
        t.freeze(axis, "spatial dim of im2col")
    height, width = node.attr("kernel_size")
    state = axis_state(axes[-3])
    pads = any(node.attr("padding")) and state is not State.ZERO
    channels = (*with_state(axes[-3], State.VARYING if pads else state), *t.opaque(height * width, "window"))
    t.set([*axes[:-3], channels, t.opaque(node.result.shape[-1], "places of windows")])


@rule("tril triu")
def triangle(t: Tracker, node: Node) -> None:
    """One side of the diagonal of the last two dims is zero."""
    axes = t.axes(node.operands[0])  # type: ignore[arg-type]
    for axis in axes[-2:]:
        t.freeze(axis, "rows and columns of a triangle")
    t.set([with_state(a, State.ZERO if axis_state(a) is State.ZERO else State.VARYING) for a in axes])


@rule("roll")
def roll(t: Tracker, node: Node) -> None:
    """Slots shifted around: a number of slots to shift by holds for the old width alone."""
    axes = list(t.axes(node.operands[0]))  # type: ignore[arg-type]
    dims = node.attr("dims")
    for dim in dims or range(len(axes)):
        t.freeze(axes[dim], "roll along it")
    t.set(axes)


@rule("expand broadcast_to expand_as")
def expand(t: Tracker, node: Node) -> None:
    """Copies along new dims and dims of size 1: as many as their users want, and no channels by themselves."""
    x, *others = t.operands()
    own = t.axes(x)
    shape = node.result.shape
    offset = len(shape) - len(own)
    axes: list[Axis] = []
    for dim, size in enumerate(shape):
        axis = own[dim - offset] if dim >= offset else ()
        if not axis:
            axis = with_state(t.axes(others[0])[dim], State.VARYING) if others else t.copies(size)
        elif others:
            axis = with_state(t.equate(axis, t.axes(others[0])[dim], "same shape"), axis_state(axis))
        axes.append(axis)
    t.set(axes)
