"""Normalizations."""

from __future__ import annotations

from typing import Any

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import product


@translates("BatchNormalization")
def batch_normalization(a: Application) -> Any:
    """(x − mean)/√(var + ε)·scale + bias, with stored statistics, or in training with those of the batch."""
    training = bool(a.attr("training_mode", 0))
    if not training and a.version < 14 and a.num_outputs > 1:
        raise Declined("batch normalization in training before opset 14")
    x, scale, bias, mean, var = (a[i] for i in range(5))
    dtype = tensor_type(x).dtype
    scale, bias, mean, var = (a.cast(v, dtype) for v in (scale, bias, mean, var))
    if not a.attr("spatial", 1):
        return _by_element(a, x, (scale, bias, mean, var), training)
    if not training:
        return _normalized(a, x, (scale, bias, mean, var))
    others = [i for i in range(tensor_type(x).rank) if i != 1]
    now = (a.emit("aten.mean.dim", x, others), a.emit("aten.var.correction", x, others, correction=0))
    running = [
        a.cast(_moved(a, old, new), a.type(index).dtype) if a.uses(index - 2) else None
        for index, old, new in zip((3, 4), (mean, var), now)
    ]
    return [_normalized(a, x, (scale, bias, *now)), *running]


def _normalized(a: Application, x: Value, operands: tuple[Value, ...]) -> Value:
    momentum, epsilon = 1 - a.attr("momentum", 0.9), a.attr("epsilon", 1e-5)
    return a.emit("aten.batch_norm", x, *operands, False, momentum, epsilon, False)


def _moved(a: Application, old: Value, new: Value) -> Value:
    """old·momentum + new·(1 − momentum). Unlike PyTorch's, the new variance is the batch's own."""
    momentum = a.attr("momentum", 0.9)
    kept = a.emit("aten.mul.Scalar", old, momentum)
    return a.emit("aten.add.Tensor", kept, a.emit("aten.mul.Scalar", new, 1 - momentum))


def _by_element(a: Application, x: Value, operands: tuple[Value, ...], training: bool) -> Value:
    """Each position by statistics of its own, as `spatial=0` asked for up to opset 8."""
    if training:
        raise Declined("batch normalization of each element in training")
    scale, bias, mean, var = operands
    deviation = a.emit("aten.sqrt", a.emit("aten.add.Scalar", var, a.attr("epsilon", 1e-5)))
    centred = a.emit("aten.div.Tensor", a.emit("aten.sub.Tensor", x, mean), deviation)
    return a.emit("aten.add.Tensor", a.emit("aten.mul.Tensor", centred, scale), bias)


@translates("InstanceNormalization")
def instance_normalization(a: Application) -> Value:
    """Each channel of each sample by its own mean and variance."""
    return a.emit("aten.instance_norm", a[0], a[1], a[2], None, None, True, 0.0, a.attr("epsilon", 1e-5), False)


@translates("GroupNormalization")
def group_normalization(a: Application) -> Value:
    """Groups of channels by their own mean and variance; up to opset 20 scale and bias were one a group."""
    x, scale, bias, groups = a[0], a[1], a[2], a.attr("num_groups")
    channels = tensor_type(x).shape[1]
    if a.version < 21 and tensor_type(scale).shape != (channels,):
        each = channels // groups
        scale, bias = (a.emit("aten.repeat_interleave.self_int", v, each) for v in (scale, bias))
    return a.emit("aten.group_norm", x, groups, scale, bias, a.attr("epsilon", 1e-5))


@translates("LayerNormalization")
def layer_normalization(a: Application) -> Any:
    """The dims from `axis` on by their mean and variance, computed in f32."""
    x, dtype = a[0], a.type(0).dtype
    rank = tensor_type(x).rank
    axis, epsilon = a.attr("axis", -1) % rank, a.attr("epsilon", 1e-5)
    dims = tensor_type(x).shape[axis:]
    weight, bias = (a.get(i) for i in (1, 2))
    whole = all(v is None or tensor_type(v).shape == dims for v in (weight, bias))
    if not a.uses(1) and not a.uses(2) and whole:
        return a.emit("aten.layer_norm", x, dims, weight, bias, epsilon)
    a.compose()
    wide = a.cast(x, DType.F32)
    over = list(range(axis, rank))
    mean = a.emit("aten.mean.dim", wide, over, True)
    centred = a.emit("aten.sub.Tensor", wide, mean)
    variance = a.emit("aten.mean.dim", a.emit("aten.mul.Tensor", centred, centred), over, True)
    inverse = a.emit("aten.rsqrt", a.emit("aten.add.Scalar", variance, epsilon))
    result = a.cast(a.emit("aten.mul.Tensor", centred, inverse), dtype)
    if weight is not None:
        result = a.emit("aten.mul.Tensor", result, weight)
    if bias is not None:
        result = a.emit("aten.add.Tensor", result, bias)
    return [result, mean, inverse]


@translates("RMSNormalization")
def rms_normalization(a: Application) -> Value:
    """x/√(mean(x²) + ε)·scale over the dims from `axis` on."""
    x, rank = a[0], a.type(0).rank
    axis, epsilon = a.attr("axis", -1) % rank, a.attr("epsilon", 1e-5)
    dims = tensor_type(x).shape[axis:]
    if tensor_type(a[1]).shape == dims:
        return a.emit("aten.rms_norm", x, dims, a[1], epsilon)
    return a.emit("aten.mul.Tensor", a.emit("aten.rms_norm", x, dims, None, epsilon), a[1])


@translates("LpNormalization")
def lp_normalization(a: Application) -> Value:
    """x/‖x‖ along a dim; zero where the norm is zero."""
    a.compose()
    x = a[0]
    norm = a.emit("aten.linalg_vector_norm", x, a.attr("p", 2), [a.attr("axis", -1)], True)
    zero = a.emit("aten.zeros_like", x)
    return a.emit("aten.where.self", a.emit("aten.eq.Scalar", norm, 0), zero, a.emit("aten.div.Tensor", x, norm))


@translates("MeanVarianceNormalization")
def mean_variance_normalization(a: Application) -> Value:
    """(x − mean)/(√var + 1e-9) over the given dims."""
    a.compose()
    x, axes = a[0], a.attr("axes", [0, 2, 3])
    centred = a.emit("aten.sub.Tensor", x, a.emit("aten.mean.dim", x, axes, True))
    variance = a.emit("aten.mean.dim", a.emit("aten.mul.Tensor", centred, centred), axes, True)
    return a.emit("aten.div.Tensor", centred, a.emit("aten.add.Scalar", a.emit("aten.sqrt", variance), 1e-9))


@translates("LRN")
def lrn(a: Application) -> Value:
    """x/(bias + α/size·Σ x²)^β over neighbouring channels: `size` of them, the extra one after."""
    a.compose()
    x, size = a[0], a.attr("size")
    n, c, *spatial = tensor_type(x).shape
    squares = a.emit("aten.reshape", a.emit("aten.mul.Tensor", x, x), (n, 1, c, product(spatial)))
    padded = a.emit("aten.constant_pad_nd", squares, [0, 0, (size - 1) // 2, size // 2], 0.0)
    mean = a.emit("aten.reshape", a.emit("aten.avg_pool2d", padded, [size, 1], [1, 1]), (n, c, *spatial))
    line = a.emit("aten.add.Scalar", a.emit("aten.mul.Scalar", mean, a.attr("alpha", 1e-4)), a.attr("bias", 1.0))
    return a.emit("aten.div.Tensor", x, a.emit("aten.pow.Tensor_Scalar", line, a.attr("beta", 0.75)))
