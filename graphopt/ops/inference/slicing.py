"""Operators that take parts of a tensor: slices, selections, splits."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import TensorType
from graphopt.ir.dims import Dim, bounds, ceildiv, dim_max, dim_min, equal, exact_div, floordiv, less
from graphopt.ops.inference.shapes import require_equal, wrap
from graphopt.ops.inference.table import Mismatch, Result, rule

_END = 2**63 - 1


def _replaced(x: TensorType, place: int, size: Dim) -> TensorType:
    return x.with_shape((*x.shape[:place], size, *x.shape[place + 1 :]))


def _require_dims(x: TensorType) -> None:
    if not x.shape:
        raise Mismatch("a tensor of rank 0 has no parts")


@rule("slice.Tensor")
def slice_(x: TensorType, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: Dim = 1) -> Result:
    """x[start:end:step] along a dim, with Python's clamping."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    size = x.shape[place]
    if not isinstance(step, int):
        return None
    if step < 1:
        raise Mismatch(f"the step {step} is not positive")
    first = 0 if start is None else _clamped(start, size)
    last = size if end is None else _clamped(end, size)
    if first is None or last is None:
        return None
    return _replaced(x, place, ceildiv(dim_max(last - first, 0), step))


def _clamped(index: Dim, size: Dim) -> Dim | None:
    """An index in [0, size]; None if its sign is unknown."""
    if index == _END:
        return size
    low, high = bounds(index)
    if low is None or low < 0:
        if high is None or high >= 0:
            return None
        return dim_max(index + size, 0)
    return dim_min(index, size)


@rule("select.int")
def select(x: TensorType, dim: int, index: Dim) -> Result:
    """x[index] along a dim."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    size = x.shape[place]
    if less(index, size) is False or less(index, -size) is True:
        raise Mismatch(f"index {index} is out of range for size {size}")
    return x.with_shape((*x.shape[:place], *x.shape[place + 1 :]))


@rule("narrow")
def narrow(x: TensorType, dim: int, start: Dim, length: Dim) -> Result:
    """x[start : start + length] along a dim, without clamping."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    low, _ = bounds(start)
    if low is None or low < 0:
        return None
    if less(x.shape[place], start + length) is True or less(length, 0) is True:
        raise Mismatch(f"{start} + {length} exceeds size {x.shape[place]}")
    return _replaced(x, place, length)


@rule("split.Tensor unsafe_split.Tensor")
def split(x: TensorType, split_size: Dim, dim: int = 0) -> Result:
    """Equal parts, the last perhaps smaller. Their number must not depend on symbols."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    size = x.shape[place]
    least = bounds(split_size)[0]
    if least is None or least < 1 or size == 0:
        return None
    count = ceildiv(size, split_size)
    if not isinstance(count, int):
        return None
    sizes = [split_size] * (count - 1) + [size - split_size * (count - 1)]
    return [_replaced(x, place, part) for part in sizes]


@rule("chunk")
def chunk(x: TensorType, chunks: int, dim: int = 0) -> Result:
    """At most `chunks` parts of equal size, the last perhaps smaller."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    size = x.shape[place]
    if chunks < 1:
        raise Mismatch(f"{chunks} chunks were asked for")
    part = exact_div(size, chunks)
    if part is not None and not isinstance(part, int):
        return [_replaced(x, place, part)] * chunks
    return split(x, ceildiv(size, chunks), dim)


@rule("split_with_sizes unsafe_split_with_sizes split.sizes")
def split_with_sizes(x: TensorType, sizes: Sequence[Dim], dim: int = 0) -> Result:
    """Parts of given sizes, which add up."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    if any(less(part, 0) is True for part in sizes):
        raise Mismatch(f"a part of {tuple(sizes)} is negative")
    require_equal(sum(sizes), x.shape[place], "the parts do not add up to the size")
    return [_replaced(x, place, part) for part in sizes]


@rule("tensor_split.sections")
def tensor_split(x: TensorType, sections: Dim, dim: int = 0) -> Result:
    """`sections` parts whose sizes differ by at most one."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    size = x.shape[place]
    if not isinstance(sections, int) or not isinstance(size, int) or sections < 1:
        return None
    part, extra = divmod(size, sections)
    return [_replaced(x, place, part + (i < extra)) for i in range(sections)]


@rule("unbind.int")
def unbind(x: TensorType, dim: int = 0) -> Result:
    """One result an index; the size must be a number."""
    _require_dims(x)
    place = wrap(dim, len(x.shape))
    size = x.shape[place]
    if not isinstance(size, int):
        return None
    return [x.with_shape((*x.shape[:place], *x.shape[place + 1 :]))] * size


@rule("unfold")
def unfold(x: TensorType, dimension: int, size: int, step: int) -> Result:
    """Sliding windows along a dim, as a new last dim."""
    if not x.shape or step < 1 or size < 0:
        return None
    place = wrap(dimension, len(x.shape))
    if less(x.shape[place], size) is True:
        raise Mismatch(f"a window of {size} exceeds size {x.shape[place]}")
    count = floordiv(x.shape[place] - size, step) + 1
    return x.with_shape((*_replaced(x, place, count).shape, size))


@rule("diagonal")
def diagonal(x: TensorType, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Result:
    """The diagonal of two dims, as a new last dim."""
    rank = len(x.shape)
    if rank < 2:
        return None
    a, b = wrap(dim1, rank), wrap(dim2, rank)
    if a == b:
        raise Mismatch(f"the diagonal needs two dims, not {dim1} twice")
    rows, columns = x.shape[a] + min(offset, 0), x.shape[b] - max(offset, 0)
    size = rows if equal(rows, columns) else dim_min(rows, columns)
    kept = [d for i, d in enumerate(x.shape) if i not in (a, b)]
    return x.with_shape((*kept, dim_max(size, 0)))
