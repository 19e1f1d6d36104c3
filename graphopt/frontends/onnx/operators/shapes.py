"""Shapes and the movement of elements: reshape, transpose, concat, split, slice, pad, tile, …"""

from __future__ import annotations

from typing import Any

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.entries import Entry, Known, as_array
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import ceildiv, dim_max, dim_min, floordiv, product
from graphopt.ir.dims import Dim, equal, exact_div, less


@translates("Shape")
def shape(a: Application) -> Entry:
    """The sizes, known as dims."""
    dims = list(a.type(0).shape)
    start, end = a.attr("start", 0), a.attr("end", len(dims))
    return Known(as_array(dims[slice(start, end)]))


@translates("Size")
def size(a: Application) -> Entry:
    """The number of elements."""
    return Known(as_array([a.type(0).numel], ()))


@translates("Reshape")
def reshape(a: Application) -> Value:
    """0 keeps the size of the operand's dim (unless `allowzero`), −1 is what is left."""
    x = a[0]
    own = tensor_type(x).shape
    target = a.dims(1)
    if not a.attr("allowzero", 0):
        target = [own[i] if isinstance(d, int) and d == 0 else d for i, d in enumerate(target)]
    return a.reshape(x, _filled(tensor_type(x).numel, target))


def _filled(numel: Dim, target: list[Dim]) -> list[Dim]:
    """Put the size that is left in place of −1."""
    holes = [i for i, d in enumerate(target) if isinstance(d, int) and d == -1]
    if not holes:
        return target
    rest = product(d for i, d in enumerate(target) if i not in holes)
    left = exact_div(numel, rest)
    return target if left is None else [left if i in holes else d for i, d in enumerate(target)]


@translates("Flatten")
def flatten(a: Application) -> Value:
    """A matrix: the dims before `axis`, and those from it on."""
    dims, axis = a.type(0).shape, a.attr("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return a.reshape(a[0], (product(dims[:axis]), product(dims[axis:])))


@translates("Transpose")
def transpose(a: Application) -> Value:
    """Dims in another order, reversed by default."""
    axes = list(range(a.type(0).rank))
    order = a.attr("perm", axes[::-1])
    moved = [axis for axis, source in zip(axes, order) if axis != source]
    if len(moved) == 2 and sorted(order) == axes:
        return a.emit("aten.transpose.int", a[0], *moved)  # the normal form: canonicalization has nothing to do
    return a.emit("aten.permute", a[0], order)


@translates("Squeeze")
def squeeze(a: Application) -> Value:
    """Drop dims of size 1: those of `axes`, or all that are known to be."""
    dims, axes = a.type(0).shape, a.ints("axes", 1)
    if axes is None:
        if not all(isinstance(d, int) for d in dims):
            raise Declined("which dims are of size 1 is not known before the model runs")
        axes = [i for i, d in enumerate(dims) if d == 1]
    dropped = {axis % len(dims) for axis in axes}
    return a.reshape(a[0], [d for i, d in enumerate(dims) if i not in dropped])


@translates("Unsqueeze")
def unsqueeze(a: Application) -> Value:
    """New dims of size 1 at the positions `axes` of the result."""
    axes = a.ints("axes", 1) or []
    dims, rank = list(a.type(0).shape), a.type(0).rank + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    return a.reshape(a[0], dims)


@translates("Concat")
def concat(a: Application) -> Value:
    """Tensors one after the other."""
    return a.emit("aten.cat", a.values(), a.attr("axis", 1))


@translates("Expand")
def expand(a: Application) -> Value:
    """Broadcast to the shape that the operand and `shape` have in common."""
    own, target = list(a.type(0).shape), a.sizes(1)
    rank = max(len(own), len(target))
    own = [*[1] * (rank - len(own)), *own]
    target = [*[1] * (rank - len(target)), *target]
    computed = a.contents(1) is None
    return a.emit("aten.expand", a[0], [_common(o, t, computed) for o, t in zip(own, target)])


def _common(own: Dim, target: Dim, computed: bool) -> Dim:
    """What two sizes broadcast to: the one that is not 1. If neither is known, it is the target, as is usual.

    computed: the target comes out as the model runs.

    Raises:
        Declined: both may be 1.
    """
    for one, other in ((own, target), (target, own)):
        if equal(one, 1) is True:
            return other
        if equal(one, 1) is False:
            return one
    if not computed or equal(own, target) is True:
        return target
    raise Declined(f"whether {own} or {target} is 1 is not known before the model runs")


@translates("Tile")
def tile(a: Application) -> Value:
    """Repeat along each dim."""
    return a.emit("aten.repeat", a[0], a.sizes(1))


@translates("Split")
def split(a: Application) -> Any:
    """Parts of the given sizes, or as many equal ones as there are outputs, the last being what is left."""
    x, axis = a[0], a.attr("axis", 0)
    total = tensor_type(x).shape[axis]
    sizes: list[Dim] | None = list(a.attr("split")) if a.attr("split") is not None else None
    if sizes is None and a.has(1):
        sizes = a.dims(1)
    if sizes is None:
        count = a.attr("num_outputs", a.num_outputs)
        part = ceildiv(total, count)
        sizes = [part] * (count - 1)
        sizes.append(total - sum(sizes))
    return a.emit_all("aten.split_with_sizes", x, sizes, axis)


@translates("Slice")
def slice_(a: Application) -> Value:
    """x[start:end:step] along each axis. Negative steps flip the dim first."""
    x = a[0]
    starts, ends = _bounds(a, "starts", 1), _bounds(a, "ends", 2)
    axes = a.ints("axes", 3) or list(range(len(starts)))
    steps = a.numbers(4) if a.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps):
        x = _sliced(a, x, start, end, axis % tensor_type(x).rank, step)
    return x


def _bounds(a: Application, name: str, index: int) -> list[Dim]:
    return list(a.attr(name)) if a.attr(name) is not None else a.dims(index)


def _sliced(a: Application, x: Value, start: Dim, end: Dim, axis: int, step: int) -> Value:
    if step > 0:
        return a.emit("aten.slice.Tensor", x, axis, start, end, step)
    size = tensor_type(x).shape[axis]
    # Counted from the end, a slice with a negative step is one with a positive step.
    last, stop = _clamped(start, size, 0), _clamped(end, size, -1)
    flipped = a.emit("aten.flip", x, [axis])
    return a.emit("aten.slice.Tensor", flipped, axis, size - 1 - last, size - 1 - stop, -step)


def _clamped(bound: Dim, size: Dim, low: int) -> Dim:
    """A bound of a slice with a negative step, counted from the start: within low … size − 1."""
    if less(bound, 0) is None:
        raise Declined("the sign of a slice's bound is not known before the model runs")
    position = bound + size if less(bound, 0) else bound
    return dim_max(low, dim_min(position, size - 1))


@translates("DepthToSpace")
def depth_to_space(a: Application) -> Value:
    """Channels into blocks of pixels; in CRD order that is a pixel shuffle."""
    block, x = a.attr("blocksize"), a[0]
    if a.attr("mode", "DCR") == "CRD":
        return a.emit("aten.pixel_shuffle", x, block)
    a.compose()
    n, c, h, w = tensor_type(x).shape
    depth = floordiv(c, block * block)
    parts = a.emit("aten.reshape", x, (n, block, block, depth, h, w))
    moved = a.emit("aten.permute", parts, [0, 3, 4, 1, 5, 2])
    return a.emit("aten.reshape", moved, (n, depth, h * block, w * block))


@translates("SpaceToDepth")
def space_to_depth(a: Application) -> Value:
    """Blocks of pixels into channels; in CRD order that is an inverse pixel shuffle."""
    block, x = a.attr("blocksize"), a[0]
    if a.attr("mode", "DCR") == "CRD":
        return a.emit("aten.pixel_unshuffle", x, block)
    a.compose()
    n, c, h, w = tensor_type(x).shape
    rows, columns = floordiv(h, block), floordiv(w, block)
    parts = a.emit("aten.reshape", x, (n, c, rows, block, columns, block))
    moved = a.emit("aten.permute", parts, [0, 3, 5, 1, 2, 4])
    return a.emit("aten.reshape", moved, (n, c * block * block, rows, columns))


@translates("Trilu")
def trilu(a: Application) -> Value:
    """The upper or lower triangle, from the k-th diagonal on."""
    k = a.numbers(1)[0] if a.has(1) else 0
    return a.emit("aten.triu" if a.attr("upper", 1) else "aten.tril", a[0], k)


@translates("ReverseSequence")
def reverse_sequence(a: Application) -> Value:
    """The first `lengths[b]` elements along the time dim of each batch entry, reversed."""
    a.compose()
    x, batch, time = a[0], a.attr("batch_axis", 1), a.attr("time_axis", 0)
    dims = tensor_type(x).shape
    steps = a.emit("aten.arange", dims[time], dtype=DType.I64)
    lengths = a.emit("aten.unsqueeze", a.cast(a[1], DType.I64), 1)
    mirrored = a.emit("aten.sub.Tensor", a.emit("aten.sub.Scalar", lengths, 1), steps)
    index = a.emit("aten.where.self", a.emit("aten.ge.Scalar", mirrored, 0), mirrored, steps)
    if time < batch:
        index = a.emit("aten.permute", index, [1, 0])
    shape = [d if i in (batch, time) else 1 for i, d in enumerate(dims)]
    index = a.emit("aten.expand", a.emit("aten.reshape", index, shape), dims)
    return a.emit("aten.gather", x, time, index)
