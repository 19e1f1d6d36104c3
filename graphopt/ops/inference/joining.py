"""Operators that make a tensor larger: concatenation, padding, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import TensorType
from graphopt.ir.dims import Dim, less
from graphopt.ops.inference.promotion import result_type
from graphopt.ops.inference.shapes import Shape, broadcast, require_equal, wrap
from graphopt.ops.inference.table import Mismatch, Result, rule


@rule("cat concat concatenate")
def cat(tensors: Sequence[TensorType], dim: int = 0) -> Result:
    """Concatenation along a dim; PyTorch ignores operands of shape [0] for history's sake."""
    if not tensors:
        raise Mismatch("there is nothing to concatenate")
    dtype = result_type(*tensors)
    parts = [t for t in tensors if t.shape != (0,)] or list(tensors)
    if dtype is None:
        return None
    rank = len(parts[0].shape)
    if any(not t.shape for t in tensors):
        raise Mismatch("a tensor of rank 0 cannot be concatenated")
    place = wrap(dim, rank)
    shape = list(parts[0].shape)
    for part in parts[1:]:
        if len(part.shape) != rank:
            raise Mismatch(f"the ranks differ: {rank} and {len(part.shape)}")
        for i, size in enumerate(part.shape):
            if i == place:
                shape[i] = shape[i] + size
            else:
                shape[i] = _same(shape[i], size)
    return TensorType(dtype, tuple(shape), parts[0].device)


def _same(a: Dim, b: Dim) -> Dim:
    """Two sizes that must be equal; a number tells more than an expression."""
    require_equal(a, b, "the sizes differ in another dim")
    return b if isinstance(b, int) else a


@rule("stack")
def stack(tensors: Sequence[TensorType], dim: int = 0) -> Result:
    """Equal shapes along a new dim."""
    if not tensors:
        raise Mismatch("there is nothing to stack")
    first = tensors[0]
    shape = list(first.shape)
    for other in tensors[1:]:
        if len(other.shape) != len(shape):
            raise Mismatch(f"the ranks differ: {len(shape)} and {len(other.shape)}")
        if other.dtype is not first.dtype:
            return None
        shape = [_same(a, b) for a, b in zip(shape, other.shape)]
    place = wrap(dim, len(shape) + 1)
    return first.with_shape((*shape[:place], len(tensors), *shape[place:]))


@rule("broadcast_tensors")
def broadcast_tensors(tensors: Sequence[TensorType]) -> Result:
    """All to one shape."""
    shape = broadcast(*[t.shape for t in tensors]) if tensors else ()
    return [t.with_shape(shape) for t in tensors]


@rule("constant_pad_nd")
def constant_pad_nd(x: TensorType, pad: Sequence[Dim], _value: Any = 0) -> Result:
    """Pad (or crop, by a negative amount) the last dims, the last first."""
    if len(pad) % 2 or len(pad) > 2 * len(x.shape):
        raise Mismatch(f"{len(pad)} amounts do not pad a tensor of rank {len(x.shape)}")
    return x.with_shape(_padded(x.shape, pad))


def _padded(shape: Shape, pad: Sequence[Dim]) -> Shape:
    result = list(shape)
    for i in range(len(pad) // 2):
        crop = sum(amount for amount in pad[2 * i : 2 * i + 2] if isinstance(amount, int) and amount < 0)
        if crop and less(result[-1 - i] + crop, 0) is True:
            raise Mismatch(f"the size {shape[-1 - i]} becomes negative by padding {tuple(pad)}")
        result[-1 - i] = result[-1 - i] + pad[2 * i] + pad[2 * i + 1]
        if less(result[-1 - i], 0) is True:
            raise Mismatch(f"the size {shape[-1 - i]} becomes negative by padding {tuple(pad)}")
    return tuple(result)


@rule("pad")
def pad(x: TensorType, amounts: Sequence[Dim], mode: str = "constant", value: float | None = None) -> Result:
    """Padding by mode: the three that look at the input pad the last dims only."""
    if mode == "constant":
        return constant_pad_nd(x, amounts, value)
    return mirrored_pad(x, amounts, limit=mode)


@rule("reflection_pad1d reflection_pad2d reflection_pad3d")
def reflection_pad(x: TensorType, amounts: Sequence[Dim]) -> Result:
    """Mirror without the edge."""
    return mirrored_pad(x, amounts, "reflect")


@rule("replication_pad1d replication_pad2d replication_pad3d")
def replication_pad(x: TensorType, amounts: Sequence[Dim]) -> Result:
    """Repeat the edge."""
    return mirrored_pad(x, amounts, "replicate")


def mirrored_pad(x: TensorType, amounts: Sequence[Dim], limit: str) -> Result:
    """Padding by reflection, replication or wrap-around of [N, C, …] or [C, …]."""
    count = len(amounts) // 2
    if len(amounts) % 2 or not 1 <= count <= 3 or len(x.shape) not in (count + 1, count + 2):
        return None
    if not x.dtype.is_floating:
        return None
    for i, amount in enumerate(amounts):
        size = x.shape[-1 - i // 2]
        if not isinstance(amount, int) or amount < 0:
            return None
        largest = {"reflect": size - 1, "circular": size}.get(limit)
        if largest is not None and less(largest, amount) is True:
            raise Mismatch(f"padding {amount} is too large for size {size} in {limit} mode")
    if any(less(d, 1) is True for d in x.shape):  # empty inputs have rules of their own
        return None
    return x.with_shape(_padded(x.shape, amounts))


@rule("repeat")
def repeat(x: TensorType, repeats: Sequence[Dim]) -> Result:
    """Copies along each dim; new dims lead."""
    offset = len(repeats) - len(x.shape)
    if offset < 0:
        raise Mismatch(f"{len(repeats)} counts are given for a tensor of rank {len(x.shape)}")
    if any(less(count, 0) is True for count in repeats):
        raise Mismatch(f"a count of {tuple(repeats)} is negative")
    return x.with_shape((*repeats[:offset], *[d * n for d, n in zip(x.shape, repeats[offset:])]))


@rule("tile")
def tile(x: TensorType, dims: Sequence[Dim]) -> Result:
    """`repeat` with missing leading counts of 1."""
    return repeat(x, (1,) * (len(x.shape) - len(dims)) + tuple(dims))


@rule("repeat_interleave.self_int")
def repeat_interleave(x: TensorType, repeats: Dim, dim: int | None = None, *_: Any) -> Result:
    """Each element several times in a row."""
    if less(repeats, 0) is True:
        raise Mismatch(f"the count {repeats} is negative")
    if dim is None:
        return x.with_shape((x.numel * repeats,))
    if not x.shape:
        return None
    place = wrap(dim, len(x.shape))
    return x.with_shape((*x.shape[:place], x.shape[place] * repeats, *x.shape[place + 1 :]))
