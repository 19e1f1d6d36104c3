"""Operators that look elements up by index, and their inverses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import equal, less
from graphopt.ops.inference.shapes import Shape, broadcast, require_equal, wrap
from graphopt.ops.inference.table import Mismatch, Result, rule

_INDEX = (DType.I64, DType.I32)


@rule("embedding")
def embedding(weight: TensorType, indices: TensorType, *_: Any) -> Result:
    """Rows of a table: [n, k] and […] → […, k]."""
    if len(weight.shape) != 2:
        raise Mismatch(f"the table has rank {len(weight.shape)}, not 2")
    return weight.with_shape((*indices.shape, weight.shape[1])) if indices.dtype in _INDEX else None


@rule("gather")
def gather(x: TensorType, dim: int, index: TensorType, *_: Any) -> Result:
    """y[i, j] = x[index[i, j], j] for dim 0."""
    place = wrap(dim, len(x.shape))
    if index.dtype is not DType.I64 or any(less(d, 1) is True for d in index.shape):
        return None
    _require_inside(index, x, place)
    return x.with_shape(index.shape)


def _require_inside(index: TensorType, x: TensorType, place: int) -> None:
    if max(len(index.shape), 1) != max(len(x.shape), 1):
        raise Mismatch(f"the index has rank {len(index.shape)}, the tensor {len(x.shape)}")
    for i, (a, b) in enumerate(zip(index.shape, x.shape)):
        if i != place and less(b, a) is True:
            raise Mismatch(f"the index has size {a} in dim {i}, the tensor {b}")


@rule("index_select")
def index_select(x: TensorType, dim: int, index: TensorType) -> Result:
    """Whole slices by index."""
    place = wrap(dim, len(x.shape))
    if index.dtype not in _INDEX or not x.shape or len(index.shape) > 1:
        return None
    count = index.shape[0] if index.shape else 1
    return x.with_shape((*x.shape[:place], count, *x.shape[place + 1 :]))


@rule("index.Tensor _unsafe_index.Tensor")
def index(x: TensorType, indices: Sequence[TensorType | None]) -> Result:
    """NumPy's indexing by integers: neighbouring index dims are replaced in place, else the result's dims lead."""
    present = [i for i, t in enumerate(indices) if t is not None]
    if not present or any(t is not None and t.dtype not in _INDEX for t in indices):
        return None
    if len(indices) > len(x.shape):
        raise Mismatch(f"{len(indices)} indices are given for a tensor of rank {len(x.shape)}")
    if any(equal(x.shape[i], 0) is not False for i in present):
        return None  # out of bounds, unless nothing is picked
    picked: Shape = broadcast(*[t.shape for t in indices if t is not None])
    kept = [d for i, d in enumerate(x.shape) if i not in present]
    adjacent = present[-1] - present[0] + 1 == len(present)
    place = present[0] if adjacent else 0
    return x.with_shape((*kept[:place], *picked, *kept[place:]))


@rule("scatter.src scatter.value scatter_add scatter.reduce scatter.value_reduce")
def scatter(x: TensorType, dim: int, index: TensorType, source: Any, *_: Any) -> Result:
    """x with elements written by index."""
    place = wrap(dim, len(x.shape))
    if index.dtype is not DType.I64 or len(index.shape) != len(x.shape) or not x.shape:
        return None
    if isinstance(source, TensorType):
        if source.dtype is not x.dtype or len(source.shape) != len(x.shape):
            return None
        if any(less(b, a) is not False for a, b in zip(index.shape, source.shape)):
            return None
    if any(less(d, 1) is True for d in index.shape):
        return None
    _require_inside(index, x, place)
    return x


@rule("index_put")
def index_put(x: TensorType, indices: Sequence[TensorType | None], values: TensorType, *_: Any) -> Result:
    """x with elements written by index."""
    picked: Any = index(x, indices)
    if picked is None or values.dtype is not x.dtype or len(values.shape) > len(picked.shape):
        return None
    for written, place in zip(values.shape[::-1], picked.shape[::-1]):
        if written != 1:
            require_equal(written, place, "the values do not fit the indexed part")
    return x


@rule("one_hot")
def one_hot(x: TensorType, classes: int = -1) -> Result:
    """A new last dim of 0 and 1."""
    return x.with_shape((*x.shape, classes)) if x.dtype is DType.I64 and classes > 0 else None


@rule("slice_scatter select_scatter")
def write_part(x: TensorType, source: TensorType, *_: Any) -> Result:
    """x with a part replaced; whether the part fits is left to PyTorch where it may not."""
    static = all(isinstance(d, int) for d in (*x.shape, *source.shape))
    return x if not static and source.dtype is x.dtype and x.shape else None


@rule("grid_sampler grid_sampler_2d grid_sampler_3d")
def grid_sampler(x: TensorType, grid: TensorType, mode: int, *_: Any) -> Result:
    """[N, C, H, W] sampled at [N, h, w, 2]: [N, C, h, w]; so are volumes, at [N, d, h, w, 3]."""
    rank = len(x.shape)
    if rank not in (4, 5) or len(grid.shape) != rank or (rank == 5 and mode == 2):
        return None
    if x.dtype is not grid.dtype or not x.dtype.is_floating or any(less(d, 1) is True for d in x.shape):
        return None
    require_equal(grid.shape[0], x.shape[0], "input and grid differ in batch size")
    require_equal(grid.shape[-1], rank - 2, f"the grid's last size is not {rank - 2}")
    return x.with_shape((*x.shape[:2], *grid.shape[1:-1]))
