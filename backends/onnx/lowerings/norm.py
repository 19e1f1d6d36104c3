"""Normalization layers and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import FALSE_STRINGS
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import normal_axis, reshape, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import Dim, product


def _vector(e: Emitter, x: Tensor | None, like: Tensor, size: Dim, fill: float) -> Tensor:
    """A per-channel parameter, or a constant in the place of one that is absent."""
    if x is not None:
        return e.cast(x, like.dtype)
    if not isinstance(size, int):
        raise Declined("the number of channels is not static")
    return e.constant(torch.full((size,), fill, dtype=like.dtype.torch), "ones" if fill else "zeros")


@lowers(
    "aten.batch_norm",
    "aten._native_batch_norm_legit_no_training",
    "aten.native_batch_norm",
    "aten._batch_norm_no_update",
    "aten._native_batch_norm_legit.no_stats",
)
def _lower_batch_norm(e: Emitter, a: Call) -> Tensor | Sequence[Tensor]:
    """Batch normalization by the running statistics."""
    x = a.input
    if getattr(a, "training", False) not in FALSE_STRINGS or a.running_mean is None:
        return _by_batch(e, a)[: len(a.node.results)]
    channels = x.dims[1]
    if x.dtype is DType.F64:
        return _padded(e, a, _by_running_statistics(e, a))
    y = e.op(
        "BatchNormalization",
        x,
        _vector(e, a.weight, x, channels, 1.0),
        _vector(e, a.bias, x, channels, 0.0),
        _vector(e, a.running_mean, x, channels, 0.0),
        _vector(e, a.running_var, x, channels, 1.0),
        epsilon=float(a.eps),
    )
    return _padded(e, a, y)


def _padded(e: Emitter, a: Call, y: Tensor) -> Tensor | Sequence[Tensor]:
    """The result, with empty statistics behind it where the operator returns some."""
    if len(a.node.results) == 1:
        return y
    empty = e.constant(torch.zeros(0, dtype=a.input.dtype.torch), "empty")
    return y, *(empty for _ in a.node.results[1:])


def _by_running_statistics(e: Emitter, a: Call) -> Tensor:
    """`(x - mean) / sqrt(variance + eps)`, scaled and shifted. In f64 the epsilon must be an operand, since an
    attribute is an f32."""
    x, channels = a.input, a.input.dims[1]
    spread = (channels, *(1,) * (x.rank - 2))
    centred = e.op("Sub", x, reshape(e, a.running_mean, spread), shape=x.dims)
    deviation = e.op("Sqrt", e.op("Add", a.running_var, float(a.eps)))
    y = e.op("Div", centred, reshape(e, deviation, spread), shape=x.dims)
    return _affine(e, y, a.weight, a.bias, channels)


def _by_batch(e: Emitter, a: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Batch normalization by the statistics of the batch: the result, the mean and the inverse deviation."""
    y, mean, variance = _normalized_by_batch(e, a)
    return y, mean, e.op("Reciprocal", e.op("Sqrt", e.op("Add", variance, float(a.eps))))


def _normalized_by_batch(e: Emitter, a: Call) -> tuple[Tensor, Tensor, Tensor]:
    x, axes = a.input, [axis for axis in range(a.input.rank) if axis != 1]
    mean = e.op("ReduceMean", x, axes, keepdims=1)
    centred = e.op("Sub", x, mean, shape=x.dims)
    variance = e.op("ReduceMean", e.op("Mul", centred, centred), axes, keepdims=1)
    scale = e.op("Sqrt", e.op("Add", variance, float(a.eps)))
    y = e.op("Div", centred, scale, shape=x.dims)
    channels = x.dims[1]
    flat = [reshape(e, t, (channels,)) for t in (mean, variance)]
    return _affine(e, y, a.weight, a.bias, channels), flat[0], flat[1]


@lowers("aten._native_batch_norm_legit_functional")
def _lower_batch_norm_functional(e: Emitter, a: Call) -> Sequence[Tensor]:
    """Also returns the new running statistics, `(1 - momentum) * old + momentum * new`, the variance unbiased."""
    if a.training in FALSE_STRINGS:
        empty = e.constant(torch.zeros(0, dtype=a.input.dtype.torch), "empty")
        scale, shift = (_vector(e, t, a.input, a.input.dims[1], f) for t, f in ((a.weight, 1.0), (a.bias, 0.0)))
        stats = (a.running_mean, a.running_var)
        y = e.op("BatchNormalization", a.input, scale, shift, *stats, epsilon=float(a.eps))
        return y, empty, empty, *stats
    y, mean, variance = _normalized_by_batch(e, a)
    inverse = e.op("Reciprocal", e.op("Sqrt", e.op("Add", variance, float(a.eps))))
    count = e.scalar(product([d for axis, d in enumerate(a.input.dims) if axis != 1]), variance.dtype)
    unbiased = e.op("Div", e.op("Mul", variance, count), e.op("Sub", count, 1.0))
    pairs = ((a.running_mean, mean), (a.running_var, unbiased))
    return y, mean, inverse, *(_blended(e, old, new, float(a.momentum)) for old, new in pairs)


def _blended(e: Emitter, old: Tensor, new: Tensor, momentum: float) -> Tensor:
    return e.op("Add", e.op("Mul", old, 1.0 - momentum), e.op("Mul", new, momentum))


@lowers("aten.layer_norm", "aten.native_layer_norm")
def _lower_layer_norm(e: Emitter, a: Call) -> Tensor | Sequence[Tensor]:
    x = a.input
    axis = x.rank - len(a.normalized_shape)
    if x.dtype is DType.F64:
        return _layer_norm_of_operations(e, a)[: len(a.node.results)]
    weight = a.weight
    if weight is None:
        weight = e.constant(torch.ones(_static(a.normalized_shape), dtype=x.dtype.torch), "ones")
    wanted = len(a.node.results)
    results = e.ops(
        "LayerNormalization",
        x,
        weight,
        a.bias,
        dtypes=(None, DType.F32, DType.F32)[:wanted],
        axis=axis,
        epsilon=float(a.eps),
    )
    return results[0] if wanted == 1 else results


def _static(dims: Sequence[Dim]) -> list[int]:
    shape = [d for d in dims if isinstance(d, int)]
    if len(shape) != len(dims):
        raise Declined("the normalized shape is not static")
    return shape


def _layer_norm_of_operations(e: Emitter, a: Call) -> tuple[Tensor, Tensor, Tensor]:
    """The result, the mean and the inverse deviation, with the epsilon as an operand. See `_by_running_statistics`."""
    x, axes = a.input, list(range(a.input.rank - len(a.normalized_shape), a.input.rank))
    mean = e.op("ReduceMean", x, axes, keepdims=1)
    centred = e.op("Sub", x, mean, shape=x.dims)
    variance = e.op("ReduceMean", e.op("Mul", centred, centred), axes, keepdims=1)
    deviation = e.op("Sqrt", e.op("Add", variance, float(a.eps)))
    y = e.op("Div", centred, deviation, shape=x.dims)
    for op_type, operand in (("Mul", a.weight), ("Add", a.bias)):
        y = y if operand is None else e.op(op_type, y, operand, shape=x.dims)
    return y, mean, e.op("Reciprocal", deviation)


@lowers("aten.rms_norm")
def _lower_rms_norm(e: Emitter, a: Call) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight`, in f32 for half precision. Written with `Pow`, which runtimes fuse."""
    x = a.input
    eps = a.eps if a.eps is not None else torch.finfo(x.dtype.torch).eps
    if e.opset >= 23 and x.dtype is DType.F32:
        weight, axis = a.weight, x.rank - len(a.normalized_shape)
        if weight is None:
            weight = e.constant(torch.ones(_static(a.normalized_shape), dtype=x.dtype.torch), "ones")
        return e.op("RMSNormalization", x, weight, axis=axis, epsilon=float(eps))
    axes = list(range(x.rank - len(a.normalized_shape), x.rank))
    wide = e.cast(x, DType.F32) if x.dtype in (DType.F16, DType.BF16) else x
    mean = e.op("ReduceMean", e.op("Pow", wide, 2.0), axes, keepdims=1)
    y = e.cast(e.op("Div", wide, e.op("Sqrt", e.op("Add", mean, float(eps)))), x.dtype)
    return y if a.weight is None else e.op("Mul", y, a.weight)


@lowers("aten.group_norm", "aten.native_group_norm")
def _lower_group_norm(e: Emitter, a: Call) -> Tensor | Sequence[Tensor]:
    """Each group of channels of each example is normalized: an instance norm over `[N, groups, rest]`, then the
    scale and shift of each channel."""
    if len(a.node.results) > 1:
        x, groups, channels = a.input, a.group, a.C
    else:
        x, groups, channels = a.input, a.num_groups, a.input.dims[1]
    flat = reshape(e, x, (x.dims[0], groups, product(x.dims[1:]) // groups))
    y = _instance(e, flat, groups, a.eps)
    y = _affine(e, reshape(e, y, x.dims), a.weight, a.bias, channels)
    if len(a.node.results) == 1:
        return y
    return y, *_group_statistics(e, flat, float(a.eps))


def _instance(e: Emitter, x: Tensor, channels: int, eps: float) -> Tensor:
    ones, zeros = (_vector(e, None, x, channels, fill) for fill in (1.0, 0.0))
    return e.op("InstanceNormalization", x, ones, zeros, epsilon=float(eps), shape=x.shape)


def _affine(e: Emitter, x: Tensor, weight: Tensor | None, bias: Tensor | None, channels: Dim) -> Tensor:
    spread = (channels, *(1,) * (x.rank - 2))
    if weight is not None:
        x = e.op("Mul", x, reshape(e, weight, spread), shape=x.shape)
    return x if bias is None else e.op("Add", x, reshape(e, bias, spread))


def _group_statistics(e: Emitter, flat: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    mean = e.op("ReduceMean", flat, [2], keepdims=1)
    centred = e.op("Sub", flat, mean)
    variance = e.op("ReduceMean", e.op("Mul", centred, centred), [2], keepdims=0)
    return e.op("Squeeze", mean, [2]), e.op("Reciprocal", e.op("Sqrt", e.op("Add", variance, eps)))


@lowers("aten.instance_norm")
def _lower_instance_norm(e: Emitter, a: Call) -> Tensor:
    x, channels = a.input, a.input.dims[1]
    scale = _vector(e, a.weight, x, channels, 1.0)
    bias = _vector(e, a.bias, x, channels, 0.0)
    if a.use_input_stats in FALSE_STRINGS and a.running_mean is not None:
        return e.op("BatchNormalization", x, scale, bias, a.running_mean, a.running_var, epsilon=float(a.eps))
    return e.op("InstanceNormalization", x, scale, bias, epsilon=float(a.eps))


def _softmax(op_type: str, e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    x = e.cast(a.self, dtype)
    if not x.dims:  # the only element is the whole distribution
        return e.op("Squeeze", e.op(op_type, unsqueeze(e, x, [0]), axis=0), [0])
    return e.op(op_type, x, axis=normal_axis(a.dim, x.rank))


@lowers("aten.softmax.int", "aten._softmax", "aten._safe_softmax")
def _lower_softmax(e: Emitter, a: Call) -> Tensor:
    """The safe form gives 0 where all elements are minus infinity."""
    y = _softmax("Softmax", e, a)
    if a.node.op.name != "aten._safe_softmax":
        return y
    axis = normal_axis(a.dim, a.self.rank)
    hidden = e.op("Equal", e.op("ReduceMax", a.self, [axis], keepdims=1), float("-inf"), dtype=DType.BOOL)
    return e.op("Where", hidden, e.scalar(0.0, y.dtype), y)


@lowers("aten.log_softmax.int", "aten._log_softmax")
def _lower_log_softmax(e: Emitter, a: Call) -> Tensor:
    return _softmax("LogSoftmax", e, a)
