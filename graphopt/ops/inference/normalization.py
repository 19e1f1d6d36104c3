"""Normalizations: the result has the input's type, if weights fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import DType, TensorType
from graphopt.ir.dims import Dim, divisible, product
from graphopt.ops.inference.shapes import require_equal
from graphopt.ops.inference.table import Mismatch, Result, rule


def _fits(x: TensorType, channels: Dim, *vectors: TensorType | None) -> bool:
    """True if all vectors have x's dtype; refuses those of another length than the channels."""
    same = x.dtype.is_floating
    for vector in vectors:
        if vector is not None:
            if len(vector.shape) != 1:
                return False
            require_equal(vector.shape[0], channels, "a weight or statistic does not fit the channels")
            same = same and vector.dtype is x.dtype
    return same


def _channels(x: TensorType) -> Dim:
    if len(x.shape) < 2:
        raise Mismatch(f"an input of rank {len(x.shape)} has no channels")
    return x.shape[1]


@rule("batch_norm")
def batch_norm(
    x: TensorType,
    weight: TensorType | None,
    bias: TensorType | None,
    mean: TensorType | None,
    var: TensorType | None,
    training: Any,
    *_: Any,
) -> Result:
    """γ·(x − μ)/√(σ² + ε) + β by channel (dim 1)."""
    if (training is not True and (mean is None or var is None)) or any(d == 0 for d in x.shape):
        return None
    return x if _fits(x, _channels(x), weight, bias, mean, var) else None


@rule("_native_batch_norm_legit_no_training")
def native_batch_norm(
    x: TensorType,
    weight: TensorType | None,
    bias: TensorType | None,
    mean: TensorType,
    var: TensorType,
    *_: Any,
) -> Result:
    """The decomposed form, with two empty statistics; PyTorch does not check the lengths of its vectors."""
    shapes = {v.shape for v in (weight, bias, mean, var) if v is not None}
    if len(x.shape) < 2 or shapes != {x.shape[1:2]} or not _fits(x, x.shape[1], weight, bias, mean, var):
        return None
    return (x, x.with_shape((0,)), x.with_shape((0,)))


@rule("instance_norm")
def instance_norm(
    x: TensorType,
    weight: TensorType | None,
    bias: TensorType | None,
    mean: TensorType | None,
    var: TensorType | None,
    use_input_stats: bool,
    *_: Any,
) -> Result:
    """Normalizes each channel of each sample over its spatial dims."""
    if len(x.shape) < 3 or not use_input_stats or mean is not None or var is not None:
        return None
    if any(d == 0 for d in x.shape):
        return None
    return x if _fits(x, _channels(x), weight, bias) else None


def _tail(x: TensorType, normalized: Sequence[Dim], *weights: TensorType | None) -> bool:
    count = len(normalized)
    if count == 0:
        return False
    if count > len(x.shape):
        raise Mismatch(f"{count} dims cannot be normalized in a tensor of rank {len(x.shape)}")
    for a, b in zip(x.shape[-count:], normalized):
        require_equal(a, b, "the normalized shape does not fit the input")
    for weight in weights:
        if weight is not None:
            if len(weight.shape) != count:
                raise Mismatch("a weight has not the normalized shape")
            for a, b in zip(weight.shape, normalized):
                require_equal(a, b, "a weight has not the normalized shape")
    return x.dtype.is_floating and all(w is None or w.dtype is x.dtype for w in weights)


@rule("layer_norm")
def layer_norm(
    x: TensorType,
    normalized: Sequence[Dim],
    weight: TensorType | None = None,
    bias: TensorType | None = None,
    *_: Any,
) -> Result:
    """γ·(x − μ)/√(σ² + ε) + β over the last dims."""
    return x if _tail(x, normalized, weight, bias) else None


@rule("rms_norm")
def rms_norm(
    x: TensorType, normalized: Sequence[Dim], weight: TensorType | None = None, _eps: float | None = None
) -> Result:
    """γ·x/√(mean x² + ε) over the last dims."""
    return x if _tail(x, normalized, weight) else None


@rule("native_layer_norm")
def native_layer_norm(
    x: TensorType, normalized: Sequence[Dim], weight: TensorType | None, bias: TensorType | None, _eps: float
) -> Result:
    """`layer_norm` with mean and reciprocal deviation."""
    if not _tail(x, normalized, weight, bias) or x.dtype not in (DType.F32, DType.F64):
        return None
    count = len(normalized)
    statistic = x.with_shape((*x.shape[:-count], *(1,) * count))
    return (x, statistic, statistic)


@rule("group_norm")
def group_norm(
    x: TensorType, groups: int, weight: TensorType | None = None, bias: TensorType | None = None, *_: Any
) -> Result:
    """Normalizes groups of channels of each sample."""
    channels = _channels(x)
    if groups < 1:
        return None
    if divisible(channels, groups) is False:
        raise Mismatch(f"{channels} channels are no multiple of {groups} groups")
    return x if _fits(x, channels, weight, bias) else None


@rule("native_group_norm")
def native_group_norm(
    x: TensorType,
    weight: TensorType | None,
    bias: TensorType | None,
    batch: Dim,
    channels: Dim,
    area: Dim,
    groups: int,
    _eps: float,
) -> Result:
    """`group_norm` with mean and reciprocal deviation of each group."""
    if x.dtype not in (DType.F32, DType.F64) or groups < 1 or len(x.shape) < 2:
        return None
    require_equal(product(x.shape), batch * channels * area, "the sizes do not fit the input")
    if divisible(channels, groups) is not True or not _fits(x, channels, weight, bias):
        return None
    statistic = x.with_shape((batch, groups))
    return (x, statistic, statistic)
