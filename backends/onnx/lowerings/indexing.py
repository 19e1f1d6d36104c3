"""Reading by index."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import (
    broadcast_shape,
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
from graphopt.ir import DType, TensorType, Value
from graphopt.ir.dims import Dim, known_equal, product


@lowers("aten.embedding")
def _lower_embedding(e: Emitter, a: Call) -> Tensor:
    return e.op("Gather", a.weight, signed_index(e, a, 1, a.weight.dims[0]), axis=0)


def signed_index(e: Emitter, a: Call, operand: int, size: Dim) -> Tensor:
    """An index for an operator that itself counts negative ones from the end: in the place of where(i < 0, i + size, i)
    it takes i."""
    value = a.node.operands[operand]
    assert value is not None
    source, node = None, value.producer
    while node is not None and node.op.base in ("aten.reshape", "aten.view", "aten.squeeze", "aten.unsqueeze"):
        node = node.operands[0].producer if node.operands[0] is not None else None
    if node is not None and node.op.name == "aten.where.self":
        negative, shifted, source = node.operands
        source = source if _is_wrapped(negative, shifted, source, size) else None
    if source is None:
        return index_tensor(e, e.tensor(value))
    assert isinstance(value.type, TensorType)
    return reshape(e, index_tensor(e, e.tensor(source)), value.type.shape)


def _is_wrapped(negative: Value | None, shifted: Value | None, source: Value | None, size: Dim) -> bool:
    """True for i < 0, i + size and i."""
    test, total = (v.producer if v is not None else None for v in (negative, shifted))
    if test is None or total is None or test.op.name != "aten.lt.Scalar" or total.op.name != "aten.add.Scalar":
        return False
    same = test.operands[0] is source and total.operands[0] is source and total.attr("alpha") == 1
    return same and test.attr("other") == 0 and known_equal(total.attr("other"), size)


def index_tensor(e: Emitter, index: Tensor) -> Tensor:
    """An index in a type that ONNX takes."""
    return index if index.dtype in (DType.I32, DType.I64) else e.cast(index, DType.I64)


@lowers("aten.index_select")
def _lower_index_select(e: Emitter, a: Call) -> Tensor:
    size = a.self.dims[normal_axis(a.dim, a.self.rank)] if a.self.rank else 1
    index = reshape(e, signed_index(e, a, 1, size), (product(a.index.dims),))
    if a.self.rank == 0:
        return reshape(e, e.op("Gather", reshape(e, a.self, (1,)), index, axis=0), ())
    return e.op("Gather", a.self, index, axis=normal_axis(a.dim, a.self.rank))


@lowers("aten.gather")
def _lower_gather(e: Emitter, a: Call) -> Tensor:
    if a.self.rank == 0:
        return expand(e, a.self, a.out.shape)
    index = signed_index(e, a, 1, a.self.dims[normal_axis(a.dim, a.self.rank)])
    if a.index.rank == 0:
        index = reshape(e, index, (1,))
    y = e.op("GatherElements", a.self, index, axis=normal_axis(a.dim, a.self.rank), shape=index.dims)
    return reshape(e, y, a.out.shape)


@lowers("aten.take")
def _lower_take(e: Emitter, a: Call) -> Tensor:
    return e.op("Gather", reshape(e, a.self, (product(a.self.dims),)), index_tensor(e, a.index), axis=0)


@lowers("aten.take_along_dim")
def _lower_take_along_dim(e: Emitter, a: Call) -> Tensor:
    x, index = a.self, index_tensor(e, a.indices)
    if a.dim is None:
        x, index, axis = (*(reshape(e, t, (product(t.dims),)) for t in (x, index)), 0)
    else:
        axis = normal_axis(a.dim, x.rank)
    lead = a.out.shape
    x = expand(e, x, [*lead[:axis], x.dims[axis], *lead[axis + 1 :]])
    return e.op("GatherElements", x, expand(e, index, a.out.shape), axis=axis)


class Selection:
    """What `x[i, :, j, …]` selects: index tensors, each for one dim, that broadcast to one shape.

    dims: the indexed dims of x. indices: their index vectors, broadcast. front: True if the index dims come first in
    the result (the indexed dims are not adjacent), else they stand where the first indexed dim stood. values: of the
    IR, that the indices are.
    """

    def __init__(self, e: Emitter, given: Sequence[Tensor | None], values: Sequence[Value | None]) -> None:
        self.dims: list[int] = []
        indices: list[Tensor] = []
        axis = 0
        for index in given:
            if index is None:
                axis += 1
            elif index.dtype in (DType.BOOL, DType.U8):
                columns = _true_positions(e, index)
                indices += columns
                self.dims += range(axis, axis + len(columns))
                axis += len(columns)
            else:
                indices.append(index_tensor(e, index))
                self.dims.append(axis)
                axis += 1
        self.front = self.dims != list(range(self.dims[0], self.dims[0] + len(self.dims))) if self.dims else False
        positions = [i for i, index in enumerate(given) if index is not None]
        self.front = self.front or positions != list(range(positions[0], positions[0] + len(positions)))
        self.indices = indices
        self.rows = _rows(e, values[: len(given)])
        self.rank = max((i.rank for i in indices), default=0)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The shape to which the indices broadcast."""
        shape: list[Dim] = [1] * self.rank
        for index in self.indices:
            for offset, dim in enumerate(index.dims[::-1]):
                if dim != 1:
                    shape[-1 - offset] = dim
        return tuple(shape)

    def stacked(self, e: Emitter) -> Tensor:
        """The indices as rows `[*shape, number of indexed dims]`, i64."""
        if self.rows is not None:
            return self.rows
        shape = self.shape
        rows = [unsqueeze(e, expand(e, e.cast(index, DType.I64), shape), [self.rank]) for index in self.indices]
        return concat(e, rows, self.rank)


def _rows(e: Emitter, columns: Sequence[Value | None]) -> Tensor | None:
    """The tensor whose columns, all of them in order, are the indices; None if they are not."""
    source: Value | None = None
    for i, column in enumerate(columns):
        cut = column.producer if column is not None else None
        if cut is None or cut.op.name != "aten.select.int" or (source or cut.operands[0]) is not cut.operands[0]:
            return None
        source = cut.operands[0]
        assert source is not None and isinstance(source.type, TensorType)
        if cut.attr("index") != i or cut.attr("dim") not in (-1, source.type.rank - 1):
            return None
    if source is None or source.type.shape[-1] != len(columns):  # type: ignore[union-attr]
        return None
    return e.cast(e.tensor(source), DType.I64)


def _true_positions(e: Emitter, mask: Tensor) -> list[Tensor]:
    """The coordinates of the true elements, one vector a dim; their number is a new size, read off the first."""
    if mask.rank == 0:
        raise Declined("a mask without dims")
    count = e.fresh_dim("nonzero")
    positions = e.op("NonZero", e.cast(mask, DType.BOOL), dtype=DType.I64, shape=(mask.rank, count))
    e.body.record_shape(positions, True)
    return [e.op("Gather", positions, e.scalar(i, DType.I64), axis=0, shape=(count,)) for i in range(mask.rank)]


@lowers("aten.index.Tensor", "aten._unsafe_index.Tensor")
def _lower_index(e: Emitter, a: Call) -> Tensor:
    """One index is a Gather; several pick rows of the tensor with the indexed dims moved to the front."""
    x = a.self
    given = [i for i in a.indices if i is not None]
    if len(given) == 1 and given[0].dtype not in (DType.BOOL, DType.U8):
        return e.op("Gather", x, index_tensor(e, given[0]), axis=list(a.indices).index(given[0]))
    selection = Selection(e, a.indices, a.node.operands[1:])
    rest = [axis for axis in range(x.rank) if axis not in selection.dims]
    first = 0 if selection.front else selection.dims[0]
    moved = transpose(e, x, [*selection.dims, *rest])
    rest_dims = [x.dims[axis] for axis in rest]
    y = e.op("GatherND", moved, selection.stacked(e), shape=(*selection.shape, *rest_dims))
    r = selection.rank
    order = [*range(r, r + first), *range(r), *range(r + first, r + len(rest))]
    return transpose(e, y, order)


@lowers("aten.masked_select")
def _lower_masked_select(e: Emitter, a: Call) -> Tensor:
    shape = broadcast_shape(a.self.dims, a.mask.dims)
    flat = [reshape(e, expand(e, t, shape), (product(shape),)) for t in (a.self, a.mask)]
    return e.op("Compress", *flat, axis=0)


@lowers("aten.nonzero")
def _lower_nonzero(e: Emitter, a: Call) -> Tensor:
    x = e.cast(a.self, DType.BOOL)
    if a.self.rank == 0:
        found = e.op("NonZero", reshape(e, x, (1,)), dtype=DType.I64)
        return e.op("Slice", e.op("Transpose", found, perm=[1, 0]), [0], [0], [1])
    return e.op("Transpose", e.op("NonZero", x, dtype=DType.I64), perm=[1, 0])


@lowers("aten.nonzero_numpy")
def _lower_nonzero_numpy(e: Emitter, a: Call) -> Sequence[Tensor]:
    return _true_positions(e, e.cast(a.self, DType.BOOL))


@lowers("aten.item", "aten._local_scalar_dense")
def _lower_item(e: Emitter, a: Call) -> Tensor:
    return reshape(e, a.self, ())


@lowers("aten.sym_size.int")
def _lower_sym_size(e: Emitter, a: Call) -> Tensor:
    return e.scalar(a.self.dims[a.dim], DType.I64)


@lowers("aten.isin.Tensor_Tensor")
def _lower_isin(e: Emitter, a: Call) -> Tensor:
    elements = unsqueeze(e, a.elements, [a.elements.rank])
    tests = reshape(e, e.cast(a.test_elements, a.elements.dtype), (product(a.test_elements.dims),))
    hits = e.cast(e.op("Equal", elements, tests, dtype=DType.BOOL), DType.I32)
    found = e.cast(e.op("ReduceSum", hits, [a.elements.rank], keepdims=0), DType.BOOL)
    return e.op("Not", found) if a.invert else found


@lowers("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def _lower_embedding_bag(e: Emitter, a: Call) -> Sequence[Tensor]:
    """The rows of each bag, added up, averaged, or their maximum. A bag starts at its offset."""
    if any(result.num_uses for result in a.node.results[1:]):
        raise Declined("the bookkeeping of an embedding bag is used")
    padding = getattr(a, "padding_idx", None)
    if a.mode == 2 or padding not in (None, -1):
        raise Declined("an embedding bag of maxima or with padding")
    indices, offsets = (e.cast(t, DType.I64) for t in (a.indices, a.offsets))
    bags = a.out.shape[0]
    if a.include_last_offset:
        offsets = slice_(e, offsets, 0, 0, bags, size=bags)
    places = unsqueeze(e, counting(e, indices.dims[0]), [1])
    started = e.cast(e.op("LessOrEqual", offsets, places, dtype=DType.BOOL), DType.I64)
    started.shape = (indices.dims[0], bags)
    bag = e.op("Sub", e.op("ReduceSum", started, [1], keepdims=1), 1)
    rows = e.op("Gather", a.weight, indices, axis=0)
    if a.per_sample_weights is not None:
        rows = e.op("Mul", rows, unsqueeze(e, a.per_sample_weights, [1]))
    total = e.op("ScatterND", full(e, a.out.shape, 0.0, rows.dtype), bag, rows, reduction="add")
    if a.mode == 1:
        ones = full(e, (indices.dims[0], 1), 1.0, rows.dtype)
        ones = expand(e, ones, (indices.dims[0], 1))
        count = e.op("ScatterND", full(e, (bags, 1), 0.0, rows.dtype), bag, ones, reduction="add")
        total = e.op("Div", total, e.op("Max", count, 1.0))
    unused = e.ints([])
    return total, *(unused for _ in a.types[1:])


@lowers("aten.as_strided")
def _lower_as_strided(e: Emitter, a: Call) -> Tensor:
    """Element `(i, j, …)` is the one at `offset + i*stride_0 + j*stride_1 + …` of the flattened tensor."""
    if not all(isinstance(n, int) for n in (*a.self.dims, *a.size, *a.stride, a.storage_offset or 0)):
        raise Declined("as_strided of dynamic sizes")
    places = torch.full((), a.storage_offset or 0)
    for size, stride in zip(a.size, a.stride):
        places = places.unsqueeze(-1) + torch.arange(size) * stride
    flat = reshape(e, a.self, (product(a.self.dims),))
    return e.op("Gather", flat, e.constant(places, "places"), axis=0)
