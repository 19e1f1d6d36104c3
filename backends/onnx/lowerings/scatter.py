"""Writing by index. The result is a new tensor; nothing is written in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor
from graphopt.backends.onnx.lowerings.indexing import Selection, index_tensor, signed_index
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import (
    END,
    concat,
    counting,
    expand,
    full,
    normal_axis,
    reshape,
    slice_,
    transpose,
    unsqueeze,
)
from graphopt.ir import DType
from graphopt.ir.dims import Dim, known_equal, product

_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


def scatter(e: Emitter, x: Tensor, dim: int, index: Tensor, source: Tensor, reduction: str | None = None) -> Tensor:
    """Write (or reduce) `source[i]` into `x` at `index[i]` along `dim`. The source may be larger than the index."""
    if x.rank == 0:
        flat = scatter(e, reshape(e, x, (1,)), 0, reshape(e, index, (1,)), reshape(e, source, (1,)), reduction)
        return reshape(e, flat, ())
    index = index_tensor(e, index)
    for axis, (have, want) in enumerate(zip(source.dims, index.dims)):
        if not known_equal(have, want):
            source = slice_(e, source, axis, 0, want, size=want)
    axis = normal_axis(dim, x.rank)
    return e.op("ScatterElements", x, index, source, axis=axis, reduction=reduction, shape=x.dims)


@lowers("aten.scatter.src", "aten.scatter_add", "aten.scatter.reduce")
def _lower_scatter(e: Emitter, a: Call) -> Tensor:
    reduction = "add" if a.node.op.name == "aten.scatter_add" else _REDUCTIONS.get(getattr(a, "reduce", ""))
    return scatter(e, a.self, a.dim, _index(e, a), a.src, reduction)


def _index(e: Emitter, a: Call) -> Tensor:
    return signed_index(e, a, 1, a.self.dims[normal_axis(a.dim, a.self.rank)]) if a.self.rank else a.index


@lowers("aten.scatter.value", "aten.scatter.value_reduce")
def _lower_scatter_value(e: Emitter, a: Call) -> Tensor:
    source = full(e, a.index.dims, a.value, a.self.dtype)
    return scatter(
        e, a.self, a.dim, a.index, expand(e, source, a.index.dims), _REDUCTIONS.get(getattr(a, "reduce", ""))
    )


@lowers("aten.scatter_reduce.two")
def _lower_scatter_reduce(e: Emitter, a: Call) -> Tensor:
    """Without the old values, the places written to start from the reduction's neutral element."""
    if a.reduce == "mean":
        return _scatter_mean(e, a)
    x, index = a.self, _index(e, a)
    if not a.include_self:
        neutral = full(e, a.index.dims, _neutral(a.reduce, x.dtype), x.dtype)
        x = scatter(e, x, a.dim, index, expand(e, neutral, a.index.dims))
    return scatter(e, x, a.dim, index, a.src, _REDUCTIONS[a.reduce])


def _neutral(reduction: str, dtype: DType) -> Any:
    if reduction in ("sum", "prod"):
        return 0 if reduction == "sum" else 1
    import torch

    if dtype.is_floating:
        return float("-inf") if reduction == "amax" else float("inf")
    limits = torch.iinfo(dtype.torch)
    return limits.min if reduction == "amax" else limits.max


def _scatter_mean(e: Emitter, a: Call) -> Tensor:
    """The sum over the count, the old value counting as one if it is included."""
    if not a.self.dtype.is_floating:
        raise Declined("scatter_reduce mean of integers")
    x = a.self
    ones = expand(e, full(e, a.index.dims, 1.0, x.dtype), a.index.dims)
    zeros = expand(e, full(e, a.index.dims, 0.0, x.dtype), a.index.dims)
    count = expand(e, full(e, x.dims, 1.0, x.dtype), x.dims)
    if not a.include_self:
        x, count = (scatter(e, t, a.dim, a.index, zeros) for t in (x, count))
    total = scatter(e, x, a.dim, a.index, a.src, "add")
    count = scatter(e, count, a.dim, a.index, ones, "add")
    return e.op("Div", total, count)


def _leading(e: Emitter, x: Tensor, axis: int) -> tuple[Tensor, list[int]]:
    """`x` with one dim moved to the front, and the order that moves it back."""
    order = [axis, *(i for i in range(x.rank) if i != axis)]
    return transpose(e, x, order), [order.index(i) for i in range(x.rank)]


def write_rows(e: Emitter, x: Tensor, dim: int, index: Tensor, rows: Tensor, reduction: str | None) -> Tensor:
    """Write (or add) the slices `rows[i]` into `x` at the positions of a vector of indices."""
    axis = normal_axis(dim, x.rank)
    moved, back = _leading(e, x, axis)
    updates = _leading(e, rows, axis)[0]
    index = e.cast(reshape(e, index, (product(index.dims), 1)), DType.I64)
    return transpose(e, e.op("ScatterND", moved, index, updates, reduction=reduction, shape=moved.dims), back)


@lowers("aten.index_add")
def _lower_index_add(e: Emitter, a: Call) -> Tensor:
    source = a.source if a.alpha == 1 else e.op("Mul", a.source, e.scalar(a.alpha, a.source.dtype), shape=a.source.dims)
    if a.self.rank == 0:
        total = e.op("ReduceSum", reshape(e, source, (product(source.dims),)), [0], keepdims=0)
        return e.op("Add", a.self, total)
    return write_rows(e, a.self, a.dim, a.index, source, "add")


@lowers("aten.index_copy")
def _lower_index_copy(e: Emitter, a: Call) -> Tensor:
    if a.self.rank == 0:
        return reshape(e, a.source, ())
    return write_rows(e, a.self, a.dim, a.index, a.source, None)


@lowers("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def _lower_index_fill(e: Emitter, a: Call) -> Tensor:
    value = as_tensor(e, a.value, a.self.dtype)
    if a.self.rank == 0:
        return value
    axis = normal_axis(a.dim, a.self.rank)
    shape = [product(a.index.dims) if i == axis else d for i, d in enumerate(a.self.dims)]
    return write_rows(e, a.self, a.dim, a.index, e.op("Expand", value, shape, shape=shape), None)


@lowers("aten.index_put", "aten._unsafe_index_put")
def _lower_index_put(e: Emitter, a: Call) -> Tensor:
    """A mask with one value is a choice; else rows are written into the tensor with the indexed dims in front."""
    given = [i for i in a.indices if i is not None]
    if _is_masked_choice(a, given):
        lead = next(i for i, index in enumerate(a.indices) if index is not None)
        mask = reshape(e, given[0], (*given[0].dims, *(1,) * (a.self.rank - lead - given[0].rank)))
        value = reshape(e, a.values, ())
        return e.op("Where", e.cast(mask, DType.BOOL), value, a.self)
    selection = Selection(e, a.indices, a.node.operands[1:])
    rest = [axis for axis in range(a.self.rank) if axis not in selection.dims]
    order = [*selection.dims, *rest]
    moved = transpose(e, a.self, order)
    rows = selection.stacked(e)
    shape = (*selection.shape, *(a.self.dims[axis] for axis in rest))
    updates = expand(e, _arranged(e, a, selection, rest), shape)
    written = e.op("ScatterND", moved, rows, updates, reduction="add" if a.accumulate else None, shape=moved.dims)
    return transpose(e, written, [order.index(axis) for axis in range(a.self.rank)])


def _is_masked_choice(a: Call, given: Sequence[Tensor]) -> bool:
    masked = len(given) == 1 and given[0].dtype in (DType.BOOL, DType.U8)
    return masked and not a.accumulate and product(a.values.dims) == 1


def _arranged(e: Emitter, a: Call, selection: Selection, rest: Sequence[int]) -> Tensor:
    """The values with the index dims in front, as the rows have them."""
    first = 0 if selection.front else selection.dims[0]
    values, rank = a.values, selection.rank + len(rest)
    if first == 0 or values.rank <= len(rest) - first:
        return values
    values = reshape(e, values, (*(1,) * (rank - values.rank), *values.dims))
    r = selection.rank
    return transpose(e, values, [*range(first, first + r), *range(first), *range(first + r, rank)])


@lowers("aten.slice_scatter")
def _lower_slice_scatter(e: Emitter, a: Call) -> Tensor:
    """What is before, the source, and what is after; with a step, by index."""
    axis = normal_axis(a.dim, a.self.rank)
    size, written = a.self.dims[axis], a.src.dims[axis]
    if known_equal(size, written) and a.step == 1:
        return e.cast(a.src, a.self.dtype)
    start: Any = a.start or 0
    if isinstance(start, int) and start < 0:
        start = size + start
    source = e.cast(a.src, a.self.dtype)
    if a.step != 1:
        places = e.op("Add", e.op("Mul", counting(e, written), a.step), e.scalar(start, DType.I64), shape=(written,))
        return write_rows(e, a.self, axis, places, source, None)
    return insert(e, a.self, axis, start, source)


def insert(e: Emitter, x: Tensor, axis: int, start: Dim, source: Tensor) -> Tensor:
    """`x` with `source` in the place of the elements from `start` on, along `axis`."""
    end = start + source.dims[axis]
    parts = [source]
    if start != 0:
        parts.insert(0, slice_(e, x, axis, 0, start, size=start))
    if not known_equal(end, x.dims[axis]):
        parts.append(slice_(e, x, axis, end, END, size=x.dims[axis] - end))
    return concat(e, parts, axis)


@lowers("aten.select_scatter")
def _lower_select_scatter(e: Emitter, a: Call) -> Tensor:
    axis = normal_axis(a.dim, a.self.rank)
    index = a.index
    if isinstance(index, int) and index < 0:
        index = a.self.dims[axis] + index
    return insert(e, a.self, axis, index, e.cast(unsqueeze(e, a.src, [axis]), a.self.dtype))


@lowers("aten.diagonal_scatter")
def _lower_diagonal_scatter(e: Emitter, a: Call) -> Tensor:
    """The diagonal of the flattened matrix is every (columns + 1)-th element."""
    rank = a.self.rank
    first, second = normal_axis(a.dim1, rank), normal_axis(a.dim2, rank)
    order = [*(i for i in range(rank) if i not in (first, second)), first, second]
    x = transpose(e, a.self, order)
    rows, columns, length = x.dims[-2], x.dims[-1], a.src.dims[-1]
    flat = reshape(e, x, (*x.dims[:-2], rows * columns))
    start = a.offset if a.offset >= 0 else -a.offset * columns
    steps = e.op("Mul", counting(e, length), e.scalar(columns + 1, DType.I64))
    places = e.op("Add", steps, e.scalar(start, DType.I64), shape=(length,))
    written = reshape(e, write_rows(e, flat, rank - 2, places, a.src, None), x.dims)
    return transpose(e, written, [order.index(i) for i in range(rank)])


@lowers("aten.masked_scatter")
def _lower_masked_scatter(e: Emitter, a: Call) -> Tensor:
    """The n-th true place takes the n-th element of the source: its number is the running count of the mask."""
    mask = expand(e, e.cast(a.mask, DType.BOOL), a.self.dims)
    flat = reshape(e, mask, (product(a.self.dims),))
    rank = e.op("Sub", e.op("CumSum", e.cast(flat, DType.I64), e.scalar(0, DType.I64)), 1)
    rank = e.op("Max", rank, 0)
    values = e.op("Gather", reshape(e, a.source, (product(a.source.dims),)), rank, axis=0, shape=flat.dims)
    return e.op("Where", mask, reshape(e, values, a.self.dims), a.self)
