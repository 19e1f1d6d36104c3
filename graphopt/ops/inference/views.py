"""Operators that rearrange dims without computing on elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import TensorType
from graphopt.ir.dims import Dim, bounds, divisible, equal, exact_div, floordiv, product
from graphopt.ops.inference.shapes import Shape, wrap, wrap_all
from graphopt.ops.inference.table import Mismatch, Result, rule


@rule("alias detach clone contiguous lift_fresh_copy lift_fresh lift resolve_conj resolve_neg")
def identity(x: TensorType, *_: Any) -> Result:
    """The same type."""
    return x


@rule("feature_dropout")
def feature_dropout(x: TensorType, p: float, train: Any) -> Result:
    """The same type; whole channels are dropped, so there must be some."""
    return dropout(x, p, train) if len(x.shape) > 1 else None


@rule("dropout alpha_dropout")
def dropout(x: TensorType, p: float, _train: Any) -> Result:
    """The same type; a probability outside [0, 1] is left to PyTorch to refuse."""
    return x if 0 <= p <= 1 and x.dtype.is_floating else None


@rule("reshape view _unsafe_view")
def reshape(x: TensorType, size: Sequence[Dim]) -> Result:
    """Another shape with as many elements; one size may be -1."""
    return x.with_shape(resolve_size(product(x.shape), tuple(size), f"{x.numel} elements"))


def resolve_size(numel: Dim, size: Shape, what: str) -> Shape:
    """Put the size that fits in the place of -1.

    Raises:
        Mismatch: the number of elements is known to differ, or -1 is ambiguous.
    """
    holes = [i for i, d in enumerate(size) if d == -1]
    if any(isinstance(d, int) and d < -1 for d in size) or len(holes) > 1:
        raise Mismatch(f"{_text(size)} is no size")
    if not holes:
        if equal(numel, product(size)) is False:
            raise Mismatch(f"{what} do not fit {_text(size)}")
        return size
    rest = product(d for i, d in enumerate(size) if i != holes[0])
    if rest == 0:
        raise Mismatch(f"-1 is ambiguous in {_text(size)}")
    quotient = exact_div(numel, rest)
    if quotient is None:
        if divisible(numel, rest) is False:
            raise Mismatch(f"{what} do not fit {_text(size)}")
        quotient = floordiv(numel, rest)  # a valid call divides exactly
    return (*size[: holes[0]], quotient, *size[holes[0] + 1 :])


def _text(size: Sequence[Dim]) -> str:
    return f"({', '.join(map(str, size))})"


@rule("permute")
def permute(x: TensorType, dims: Sequence[int]) -> Result:
    """Dims in another order."""
    shape = x.shape
    if len(dims) != len(shape):
        raise Mismatch(f"{len(dims)} dims are given for a tensor of rank {len(shape)}")
    return x.with_shape(tuple([shape[d] for d in wrap_all(dims, len(shape))]))


@rule("transpose.int swapaxes swapdims")
def transpose(x: TensorType, dim0: int, dim1: int) -> Result:
    """Two dims exchanged."""
    rank = len(x.shape)
    a, b = wrap(dim0, rank), wrap(dim1, rank)
    shape = list(x.shape)
    if shape:
        shape[a], shape[b] = shape[b], shape[a]
    return x.with_shape(tuple(shape))


@rule("t")
def t(x: TensorType) -> Result:
    """The transpose of a matrix."""
    if len(x.shape) > 2:
        raise Mismatch(f"t needs a matrix, not rank {len(x.shape)}")
    return x.with_shape(x.shape[::-1])


@rule("numpy_T")
def numpy_t(x: TensorType) -> Result:
    """All dims reversed."""
    return x.with_shape(x.shape[::-1]) if len(x.shape) == 2 else None


@rule("movedim.int moveaxis.int")
def movedim(x: TensorType, source: int, destination: int) -> Result:
    """One dim moved."""
    shape = list(x.shape)
    if not shape:
        return None
    dim = shape.pop(wrap(source, len(x.shape)))
    shape.insert(wrap(destination, len(x.shape)), dim)
    return x.with_shape(tuple(shape))


@rule("movedim.intlist moveaxis.intlist")
def movedims(x: TensorType, source: Sequence[int], destination: Sequence[int]) -> Result:
    """Several dims moved; the others keep their order."""
    if len(source) != len(destination):
        raise Mismatch(f"{len(source)} dims move to {len(destination)} places")
    rank = len(x.shape)
    placed = dict(zip(wrap_all(destination, rank), wrap_all(source, rank)))
    others = iter([d for d in range(rank) if d not in placed.values()])
    return x.with_shape(tuple([x.shape[placed[i] if i in placed else next(others)] for i in range(rank)]))


@rule("squeeze")
def squeeze(x: TensorType) -> Result:
    """Drop dims of size 1. A symbolic size is not 1 by chance: it stays."""
    return x.with_shape(tuple([d for d in x.shape if d != 1]))


@rule("squeeze.dim")
def squeeze_dim(x: TensorType, dim: int) -> Result:
    """Drop one dim if its size is 1."""
    return squeeze_dims(x, (dim,))


@rule("squeeze.dims")
def squeeze_dims(x: TensorType, dims: Sequence[int]) -> Result:
    """Drop those of the dims whose size is 1."""
    dropped = wrap_all(dims, len(x.shape))
    return x.with_shape(tuple([d for i, d in enumerate(x.shape) if d != 1 or i not in dropped]))


@rule("unsqueeze")
def unsqueeze(x: TensorType, dim: int) -> Result:
    """Add a dim of size 1."""
    place = wrap(dim, len(x.shape) + 1)
    return x.with_shape((*x.shape[:place], 1, *x.shape[place:]))


@rule("expand broadcast_to")
def expand(x: TensorType, size: Sequence[Dim], *_: Any) -> Result:
    """Repeat dims of size 1, and add leading dims; -1 keeps a size."""
    offset = len(size) - len(x.shape)
    if offset < 0:
        raise Mismatch(f"{len(size)} sizes are given for a tensor of rank {len(x.shape)}")
    if any(d == -1 for d in size[:offset]) or any(isinstance(d, int) and d < -1 for d in size):
        raise Mismatch(f"{_text(size)} is no size, or -1 stands for a new dim")
    return x.with_shape((*size[:offset], *map(_expanded, x.shape, size[offset:])))


def _expanded(old: Dim, new: Dim) -> Dim:
    if new == -1 or old == new:
        return old
    if equal(old, 1) is False and equal(old, new) is False:
        raise Mismatch(f"size {old} cannot expand to {new}")
    return new


@rule("expand_as")
def expand_as(x: TensorType, other: TensorType) -> Result:
    """Expand to another tensor's shape."""
    return expand(x, other.shape)


@rule("view_as reshape_as")
def view_as(x: TensorType, other: TensorType) -> Result:
    """Reshape to another tensor's shape."""
    return reshape(x, other.shape)


@rule("flatten.using_ints")
def flatten(x: TensorType, start: int = 0, end: int = -1) -> Result:
    """Merge a range of dims."""
    rank = len(x.shape)
    first, last = wrap(start, rank, "start_dim"), wrap(end, rank, "end_dim")
    if first > last:
        raise Mismatch(f"start_dim {start} comes after end_dim {end}")
    merged = product(x.shape[first : last + 1])
    return x.with_shape((*x.shape[:first], merged, *x.shape[last + 1 :]))


@rule("unflatten.int")
def unflatten(x: TensorType, dim: int, sizes: Sequence[Dim]) -> Result:
    """Split one dim into several; one size may be -1."""
    place = wrap(dim, len(x.shape))
    if not x.shape or not sizes:
        return None
    split = resolve_size(x.shape[place], tuple(sizes), f"size {x.shape[place]}")
    return x.with_shape((*x.shape[:place], *split, *x.shape[place + 1 :]))


@rule("flip")
def flip(x: TensorType, dims: Sequence[int]) -> Result:
    """Reverse the order along dims."""
    wrap_all(dims, len(x.shape))
    return x


@rule("roll")
def roll(x: TensorType, shifts: Sequence[Dim], dims: Sequence[int] = ()) -> Result:
    """Shift with wrap-around."""
    if dims and len(dims) != len(shifts):
        raise Mismatch(f"{len(shifts)} shifts are given for {len(dims)} dims")
    if (not dims and len(shifts) != 1) or not x.shape:
        return None
    for dim in dims:
        wrap(dim, len(x.shape))
    return x


@rule("tril triu")
def triangle(x: TensorType, _diagonal: Any = 0) -> Result:
    """Zero one side of the diagonal."""
    if len(x.shape) < 2:
        raise Mismatch(f"a triangle needs at least 2 dims, not {len(x.shape)}")
    return x


@rule("pixel_shuffle")
def pixel_shuffle(x: TensorType, factor: int) -> Result:
    """[…, C·r², H, W] → […, C, H·r, W·r]."""
    if len(x.shape) < 3 or factor < 1:
        return None
    *lead, channels, height, width = x.shape
    fewer = exact_div(channels, factor * factor)
    if fewer is None:
        if divisible(channels, factor * factor) is False:
            raise Mismatch(f"{channels} channels are no multiple of {factor}²")
        return None
    return x.with_shape((*lead, fewer, height * factor, width * factor))


@rule("pixel_unshuffle")
def pixel_unshuffle(x: TensorType, factor: int) -> Result:
    """[…, C, H·r, W·r] → […, C·r², H, W]."""
    if len(x.shape) < 3 or factor < 1:
        return None
    *lead, channels, height, width = x.shape
    for size in (height, width):
        if divisible(size, factor) is False:
            raise Mismatch(f"size {size} is no multiple of {factor}")
    shape = (*lead, channels * factor * factor, floordiv(height, factor), floordiv(width, factor))
    return x.with_shape(shape)


@rule("channel_shuffle")
def channel_shuffle(x: TensorType, groups: Dim) -> Result:
    """The same type."""
    if len(x.shape) < 3 or (bounds(groups)[0] or 0) < 1:
        return None
    return x if divisible(x.shape[1], groups) is True else None
