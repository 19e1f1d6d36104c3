"""Moving elements: reshape, transpose, slice, expand, concat. Each returns its input where there is nothing to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from graphopt.backends.onnx.records import Tensor
from graphopt.ir import DType
from graphopt.ir.dims import Dim, bounds, known_equal, product, shapes_known_equal

if TYPE_CHECKING:
    from graphopt.backends.onnx.emitter import Emitter

END = 2**63 - 1
"""The end of a slice that runs to the end."""
STORED = 1 << 16
"""How far numbers that are counted are stored; beyond, the model counts as it runs."""


def reshape(e: Emitter, x: Tensor, shape: Sequence[Dim]) -> Tensor:
    """Give `x` another shape with the same elements in row-major order."""
    target = tuple(shape)
    if x.shape is not None and shapes_known_equal(x.shape, target):
        return x
    if source := _viewed(e, x, target):
        return source
    literal = _literal_target(x.shape, target)
    if literal is None and x.shape is not None:
        added, removed = _inserted(x.shape, target), _inserted(target, x.shape)
        if added is not None:
            return unsqueeze(e, x, added)
        if removed is not None:
            return squeeze(e, x, removed)
    if literal is None:
        return _view(e, x, e.op("Reshape", x, e.sizes.vector(target), allowzero=1, shape=target))
    return _view(e, x, e.op("Reshape", x, list(literal), shape=target, allowzero=1 if 0 in target else None))


def _view(e: Emitter, x: Tensor, y: Tensor) -> Tensor:
    """Remember that `y` holds the elements of `x`, so that the way back is no operation."""
    if x.shape is not None:
        e.body.made["view", y] = x
    return y


def _viewed(e: Emitter, x: Tensor, shape: tuple[Dim, ...]) -> Tensor | None:
    """What `x` was made of by a change of shape alone, if it has this shape."""
    source = e.made(("view", x))
    return source if source is not None and shapes_known_equal(source.dims, shape) else None


def _literal_target(source: tuple[Dim, ...] | None, target: tuple[Dim, ...]) -> tuple[int, ...] | None:
    """The target as numbers, with 0 for a dim that stays in place and -1 for one that follows from the rest.

    A -1 needs the other dims to be known non-zero: a runtime divides by their product.
    """
    if all(isinstance(dim, int) for dim in target):
        return target  # type: ignore[return-value]
    if 0 in target:
        return None
    literal: list[int | None] = []
    for index, dim in enumerate(target):
        if isinstance(dim, int):
            literal.append(dim)
        elif source is not None and index < len(source) and known_equal(source[index], dim):
            literal.append(0)
        else:
            literal.append(None)
    if literal.count(None) == 0:
        return tuple(item for item in literal if item is not None)
    others = [dim for dim, item in zip(target, literal) if item is not None]
    if literal.count(None) == 1 and all(_nonzero(dim) for dim in others):
        return tuple(-1 if item is None else item for item in literal)
    return None


def _inserted(short: tuple[Dim, ...], long: tuple[Dim, ...]) -> list[int] | None:
    """Where dims of size 1 are inserted into `short` to give `long`; None if that is not all."""
    axes, position = [], 0
    for axis, dim in enumerate(long):
        if position < len(short) and known_equal(dim, short[position]):
            position += 1
        elif dim == 1:
            axes.append(axis)
        else:
            return None
    return axes if position == len(short) else None


def _nonzero(dim: Dim) -> bool:
    low = bounds(dim)[0]
    return low is not None and low > 0


def transpose(e: Emitter, x: Tensor, perm: Sequence[int]) -> Tensor:
    """Permute the dims: dim i of the result is dim `perm[i]` of `x`."""
    order = [p % len(perm) for p in perm] if perm else []
    if order == sorted(order):
        return x
    if source := e.made(("transposed", x, tuple(order))):
        return source
    y = e.op("Transpose", x, perm=order, shape=[x.dims[p] for p in order])
    e.body.made["transposed", y, tuple(order.index(d) for d in range(len(order)))] = x
    return y


def swap(e: Emitter, x: Tensor, a: int, b: int) -> Tensor:
    """Exchange two dims."""
    order = list(range(x.rank))
    if order:
        order[a], order[b] = order[b], order[a]
    return transpose(e, x, order)


def unsqueeze(e: Emitter, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Insert dims of size 1 so that they stand at `axes` (non-negative) of the result."""
    if not axes:
        return x
    shape = list(x.dims)
    for axis in sorted(axes):
        shape.insert(axis, 1)
    if source := _viewed(e, x, tuple(shape)):
        return source
    return _view(e, x, e.op("Unsqueeze", x, list(axes), shape=shape))


def squeeze(e: Emitter, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Remove the dims `axes` (non-negative) of size 1."""
    if not axes:
        return x
    shape = tuple(d for i, d in enumerate(x.dims) if i not in axes)
    if source := _viewed(e, x, shape):
        return source
    return _view(e, x, e.op("Squeeze", x, list(axes), shape=shape))


def expand(e: Emitter, x: Tensor, shape: Sequence[Dim]) -> Tensor:
    """Broadcast `x` to `shape`."""
    target = tuple(shape)
    if x.shape is not None and shapes_known_equal(x.shape, target):
        return x
    # A dim that stays may be given as 1, which saves looking it up.
    padded = (1,) * (len(target) - x.rank) + x.dims
    hints: list[Dim] = [1 if not isinstance(t, int) and known_equal(t, have) else t for t, have in zip(target, padded)]
    return e.op("Expand", x, hints, shape=target)


def broadcast_shape(*shapes: Sequence[Dim]) -> tuple[Dim, ...]:
    """The shape to which the shapes broadcast together."""
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for offset, dim in enumerate(reversed(shape)):
            if dim != 1:
                result[rank - 1 - offset] = dim
    return tuple(result)


def slice_(e: Emitter, x: Tensor, axis: int, start: Dim, end: Dim, step: int = 1, size: Dim | None = None) -> Tensor:
    """Take `x[start:end:step]` along `axis`. size: the resulting dim."""
    shape = None if x.shape is None or size is None else [*x.shape[:axis], size, *x.shape[axis + 1 :]]
    return e.op("Slice", x, [start], [end], [axis], [step], shape=shape)


def concat(e: Emitter, tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Join along `axis` (non-negative)."""
    if len(tensors) == 1:
        return tensors[0]
    shape: list[Dim] | None = None
    if all(t.shape is not None for t in tensors):
        shape = list(tensors[0].dims)
        for tensor in tensors[1:]:
            shape[axis] = shape[axis] + tensor.dims[axis]
    return e.op("Concat", *tensors, axis=axis, shape=shape)


def full(e: Emitter, shape: Sequence[Dim], value: bool | int | float, dtype: DType) -> Tensor:
    """A tensor of one value."""
    target = tuple(shape)
    if not target:
        return e.scalar(value, dtype)
    filler = torch.tensor([value], dtype=dtype.torch)
    if all(isinstance(d, int) for d in target) and product(target) == 1:
        return e.constant(filler.reshape([1] * len(target)))
    return e.op("ConstantOfShape", e.sizes.vector(target), value=filler, dtype=dtype, shape=target)


def counting(e: Emitter, count: Dim) -> Tensor:
    """0, 1, …, count - 1 as i64."""
    if isinstance(count, int) and count <= STORED:
        return e.constant(torch.arange(count), "range")
    return e.op("Range", e.scalar(0, DType.I64), e.scalar(count, DType.I64), e.scalar(1, DType.I64), shape=(count,))


def normal_axis(axis: int, rank: int) -> int:
    """A dim's index counted from the front; a tensor without dims counts as one with one."""
    return axis % max(rank, 1)


def normal_axes(axes: int | Sequence[int] | None, rank: int) -> list[int]:
    """Dims counted from the front, in increasing order; None (or none) means all."""
    if axes is None or axes == ():
        return list(range(rank))
    given = (axes,) if isinstance(axes, int) else axes
    return sorted({normal_axis(axis, rank) for axis in given}) if rank else []
