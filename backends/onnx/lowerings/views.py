"""Views: reshapes, permutations and selections that move elements without computing on them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.leading import leading
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import (
    END,
    counting,
    expand,
    normal_axis,
    reshape,
    slice_,
    squeeze,
    transpose,
    unsqueeze,
)
from graphopt.ir import DType, TensorType
from graphopt.ir.dims import Dim, known_equal, product


@lowers(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.view_as",
    "aten.reshape_as",
    "aten.ravel",
    "aten.atleast_1d",
    "aten.atleast_2d",
    "aten.atleast_3d",
)
def _lower_reshape(e: Emitter, a: Call) -> Tensor:
    """The result's type holds the shape, with every -1 resolved."""
    return reshape(e, a.self, a.out.shape)


@lowers("aten.squeeze", "aten.squeeze.dim", "aten.squeeze.dims")
def _lower_squeeze(e: Emitter, a: Call) -> Tensor:
    dims = getattr(a, "dim", None)
    given = range(a.self.rank) if dims is None else (dims,) if isinstance(dims, int) else dims
    axes = {normal_axis(d, a.self.rank) for d in given} if a.self.rank else set()
    return squeeze(e, a.self, sorted(axis for axis in axes if a.self.dims[axis] == 1))


@lowers("aten.unsqueeze")
def _lower_unsqueeze(e: Emitter, a: Call) -> Tensor:
    return unsqueeze(e, a.self, [a.dim % (a.self.rank + 1)])


@lowers("aten.permute")
def _lower_permute(e: Emitter, a: Call) -> Tensor:
    return _permuted(e, a, a.dims)


def _permuted(e: Emitter, a: Call, order: Sequence[int]) -> Tensor:
    """ONNX's `NonZero` is the transpose of PyTorch's."""
    value = a.node.operands[0]
    found = value.producer if value is not None else None
    if value is not None and found is not None and found.op.name == "aten.nonzero" and value.num_uses == 1:
        (source,) = found.inputs
        mask = e.tensor(source)
        if mask.rank and [d % 2 for d in order] == [1, 0]:
            return e.op("NonZero", e.cast(mask, DType.BOOL), dtype=DType.I64, shape=a.out.shape)
    return transpose(e, a.self, order)


@lowers("aten.transpose.int", "aten.swapaxes", "aten.swapdims")
def _lower_transpose(e: Emitter, a: Call) -> Tensor:
    first, second = (a.axis0, a.axis1) if a.node.op.name == "aten.swapaxes" else (a.dim0, a.dim1)
    order = list(range(a.self.rank))
    if order:
        order[first], order[second] = order[second], order[first]
    return _permuted(e, a, order)


@lowers("aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint")
def _lower_t(e: Emitter, a: Call) -> Tensor:
    order = list(range(a.self.rank))
    if a.node.op.name == "aten.numpy_T" or len(order) < 2:
        return transpose(e, a.self, order[::-1])
    return transpose(e, a.self, [*order[:-2], order[-1], order[-2]])


@lowers("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.int", "aten.moveaxis.intlist")
def _lower_movedim(e: Emitter, a: Call) -> Tensor:
    rank = a.self.rank
    source, target = (
        [normal_axis(d, rank) for d in ((dims,) if isinstance(dims, int) else dims)]
        for dims in (a.source, a.destination)
    )
    rest = iter(axis for axis in range(rank) if axis not in source)
    placed = dict(zip(target, source))
    return transpose(e, a.self, [placed[axis] if axis in placed else next(rest) for axis in range(rank)])


@lowers("aten.expand", "aten.broadcast_to", "aten.expand_as")
def _lower_expand(e: Emitter, a: Call) -> Tensor:
    return expand(e, a.self, a.out.shape)


@lowers("aten.slice.Tensor", "aten.narrow")
def _lower_slice(e: Emitter, a: Call) -> Tensor:
    """ONNX counts and clamps the ends as PyTorch does."""
    axis = normal_axis(a.dim, a.self.rank)
    size = a.out.shape[axis]
    if a.node.op.name == "aten.narrow":
        start, end, step = a.start, a.start + a.length, 1
    else:
        start, end, step = a.start or 0, END if a.end is None else a.end, a.step
    if known_equal(size, a.self.dims[axis]) and step == 1:
        return a.self
    if a.node.op.name == "aten.narrow" and isinstance(start, int) and start < 0 and end == 0:
        end = END
    first = leading(e, a)
    return first if first is not None else slice_(e, a.self, axis, start, end, step, size)


@lowers("aten.select.int")
def _lower_select(e: Emitter, a: Call) -> Tensor:
    return pick(e, a.self, normal_axis(a.dim, a.self.rank), a.index)


def pick(e: Emitter, x: Tensor, axis: int, index: Dim) -> Tensor:
    """`x` at one index along `axis`, without that dim."""
    shape = [d for i, d in enumerate(x.dims) if i != axis]
    return e.op("Gather", x, e.scalar(index, DType.I64), axis=axis, shape=shape)


@lowers(
    "aten.split.Tensor",
    "aten.split.sizes",
    "aten.split_with_sizes",
    "aten.split_copy.Tensor",
    "aten.chunk",
    "aten.split_with_sizes_copy",
    "aten.unsafe_chunk",
    "aten.unsafe_split.Tensor",
    "aten.unsafe_split_with_sizes",
    "aten.tensor_split.sections",
    "aten.tensor_split.indices",
)
def _lower_split(e: Emitter, a: Call) -> Sequence[Tensor]:
    """The sizes of the pieces stand in the types of the results."""
    axis = normal_axis(a.dim, a.self.rank)
    shapes = [type_.shape for type_ in a.types if isinstance(type_, TensorType)]
    if len(shapes) == 1:
        return (a.self,)
    sizes = [shape[axis] for shape in shapes]
    return e.ops("Split", a.self, sizes, dtypes=(None,) * len(shapes), shapes=shapes, axis=axis)


@lowers("aten.unbind.int")
def _lower_unbind(e: Emitter, a: Call) -> Sequence[Tensor]:
    axis = normal_axis(a.dim, a.self.rank)
    return [pick(e, a.self, axis, index) for index in range(len(a.types))]


@lowers("aten.repeat", "aten.tile")
def _lower_repeat(e: Emitter, a: Call) -> Tensor:
    repeats = a.repeats if a.node.op.name == "aten.repeat" else a.dims
    rank = max(len(repeats), a.self.rank)
    x = reshape(e, a.self, (*(1,) * (rank - a.self.rank), *a.self.dims))
    counts = [*(1,) * (rank - len(repeats)), *repeats]
    if all(count == 1 for count in counts):
        return x
    if all(size == 1 or count == 1 for size, count in zip(x.dims, counts)):
        return expand(e, x, a.out.shape)
    return e.op("Tile", x, counts)


@lowers("aten.repeat_interleave.self_int")
def _lower_repeat_interleave(e: Emitter, a: Call) -> Tensor:
    x = a.self
    if a.dim is None:
        x = reshape(e, x, (product(x.dims),)) if x.rank != 1 else x
    axis = 0 if a.dim is None else normal_axis(a.dim, x.rank)
    spread = (*x.dims[: axis + 1], a.repeats, *x.dims[axis + 1 :])
    return reshape(e, expand(e, unsqueeze(e, x, [axis + 1]), spread), a.out.shape)


@lowers("aten.flip", "aten.fliplr", "aten.flipud")
def _lower_flip(e: Emitter, a: Call) -> Tensor:
    name = a.node.op.name
    dims = a.dims if name == "aten.flip" else ((1,) if name == "aten.fliplr" else (0,))
    axes = [normal_axis(d, a.self.rank) for d in dims] if a.self.rank else []
    if not axes:
        return a.self
    count = len(axes)
    return e.op("Slice", a.self, [-1] * count, [-END - 1] * count, axes, [-1] * count, shape=a.out.shape)


@lowers("aten.roll")
def _lower_roll(e: Emitter, a: Call) -> Tensor:
    """The last `shift` elements change places with the rest."""
    x = a.self
    if not a.dims:
        x, axes = reshape(e, x, (product(x.dims),)), [0]
    else:
        axes = [normal_axis(d, x.rank) for d in a.dims]
    for shift, axis in zip(a.shifts, axes):
        x = _rolled(e, x, shift, axis)
    return reshape(e, x, a.out.shape)


def _rolled(e: Emitter, x: Tensor, shift: Dim, axis: int) -> Tensor:
    size = x.dims[axis]
    if size == 0 or shift == 0:
        return x
    cut = size - shift % size
    tail = slice_(e, x, axis, cut, END, size=size - cut)
    head = slice_(e, x, axis, 0, cut, size=cut)
    return e.op("Concat", tail, head, axis=axis, shape=x.dims)


@lowers("aten.diagonal")
def _lower_diagonal(e: Emitter, a: Call) -> Tensor:
    return diagonal(e, a.self, a.offset, a.dim1, a.dim2, a.out.shape)


def diagonal(e: Emitter, x: Tensor, offset: int, dim1: int, dim2: int, shape: Sequence[Dim]) -> Tensor:
    """The diagonal is every (columns + 1)-th element of the flattened matrix."""
    rank = x.rank
    first, second = normal_axis(dim1, rank), normal_axis(dim2, rank)
    rest = [axis for axis in range(rank) if axis not in (first, second)]
    x = transpose(e, x, [*rest, first, second])
    rows, columns, length = x.dims[-2], x.dims[-1], shape[-1]
    flat = reshape(e, x, (*x.dims[:-2], rows * columns))
    start = offset if offset >= 0 else -offset * columns
    end = start + length * (columns + 1)
    return e.op("Slice", flat, [start], [end], [rank - 2], [columns + 1], shape=shape)


@lowers("aten.diag_embed", "aten.diag")
def _lower_diag_embed(e: Emitter, a: Call) -> Tensor:
    """A vector becomes the diagonal of a matrix of zeros; `diag` of a matrix takes its diagonal."""
    if a.node.op.name == "aten.diag" and a.self.rank == 2:
        return diagonal(e, a.self, a.diagonal, 0, 1, a.out.shape)
    offset, rank = getattr(a, "offset", getattr(a, "diagonal", 0)), a.self.rank + 1
    length = a.self.dims[-1]
    row, column = unsqueeze(e, counting(e, length), [1]), counting(e, length)
    on = e.op("Equal", row, column, dtype=DType.BOOL)
    x = e.op("Where", on, unsqueeze(e, a.self, [rank - 1]), e.scalar(0, a.self.dtype))
    x.shape = (*a.self.dims, length)
    if offset:
        before, after = (max(-offset, 0), max(offset, 0)), (max(offset, 0), max(-offset, 0))
        lead = [0] * (rank - 2)
        size = length + abs(offset)
        pads = [*lead, before[0], before[1], *lead, after[0], after[1]]
        x = e.op("Pad", x, pads, shape=(*x.dims[:-2], size, size))
    first, second = (normal_axis(d, rank) for d in (getattr(a, "dim1", -2), getattr(a, "dim2", -1)))
    rest = iter(range(rank - 2))
    order = [rank - 2 if i == first else rank - 1 if i == second else next(rest) for i in range(rank)]
    return transpose(e, x, order)


@lowers("aten.pixel_shuffle")
def _lower_pixel_shuffle(e: Emitter, a: Call) -> Tensor:
    *lead, channels, height, width = a.self.dims
    factor = a.upscale_factor
    if a.self.rank == 4:
        return e.op("DepthToSpace", a.self, blocksize=factor, mode="CRD")
    x = reshape(e, a.self, (*lead, channels // factor**2, factor, factor, height, width))
    n = len(lead)
    x = transpose(e, x, [*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return reshape(e, x, a.out.shape)


@lowers("aten.pixel_unshuffle")
def _lower_pixel_unshuffle(e: Emitter, a: Call) -> Tensor:
    *lead, channels, height, width = a.self.dims
    factor = a.downscale_factor
    x = reshape(e, a.self, (*lead, channels, height // factor, factor, width // factor, factor))
    n = len(lead)
    x = transpose(e, x, [*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return reshape(e, x, a.out.shape)


@lowers("aten.channel_shuffle", "aten.native_channel_shuffle")
def _lower_channel_shuffle(e: Emitter, a: Call) -> Tensor:
    batch, channels, *rest = a.self.dims
    x = reshape(e, a.self, (batch, a.groups, channels // a.groups, *rest))
    return reshape(e, transpose(e, x, [0, 2, 1, *range(3, x.rank)]), a.out.shape)


@lowers("aten.meshgrid", "aten.meshgrid.indexing")
def _lower_meshgrid(e: Emitter, a: Call) -> Sequence[Tensor]:
    rank = len(a.tensors)
    axes = list(range(rank))
    if getattr(a, "indexing", "ij") == "xy" and rank > 1:
        axes[:2] = [1, 0]
    results = []
    for tensor, axis in zip(a.tensors, axes):
        spread = [1] * rank
        spread[axis] = tensor.dims[0] if tensor.rank else 1
        results.append(expand(e, reshape(e, tensor, spread), a.out.shape))
    return results


@lowers("aten.unfold")
def _lower_unfold(e: Emitter, a: Call) -> Tensor:
    """Windows of `size` every `step`: their indices gather `[windows, size]` in the place of the dim."""
    import torch

    axis = normal_axis(a.dimension, a.self.rank)
    if not a.self.rank:
        return e.op("Expand", a.self, [a.size])
    count = a.out.shape[axis]
    offsets = e.constant(torch.arange(a.size))
    starts = unsqueeze(e, e.op("Mul", counting(e, count), a.step, shape=(count,)), [1])
    indices = e.op("Add", starts, offsets, shape=(count, a.size))
    shape = (*a.self.dims[:axis], count, a.size, *a.self.dims[axis + 1 :])
    x = e.op("Gather", a.self, indices, axis=axis, shape=shape)
    order = [i for i in range(x.rank) if i != axis + 1]
    return transpose(e, x, [*order, axis + 1])
