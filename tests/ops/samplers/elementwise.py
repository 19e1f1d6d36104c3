"""Samplers: Elementwise operators."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from graphopt.ops.inference import overloads
from tests.ops.calls import FLOATS, Draw, Drawn, S, sampler


@sampler(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh",
    "sigmoid reciprocal sinc erf erfc erfinv lgamma digamma i0 special_erfcx special_entr relu sign ceil floor trunc",
    "round frac deg2rad rad2deg neg positive square sgn conj_physical abs absolute bitwise_not logical_not isnan",
    "isinf isfinite signbit isposinf isneginf isreal alias detach clone lift_fresh_copy lift_fresh lift",
    "resolve_conj resolve_neg squeeze max min any all log_sigmoid hardsigmoid hardswish mish silu relu6 selu gelu",
    "celu elu hardshrink hardtanh leaky_relu softplus softshrink nan_to_num logit zeros_like ones_like",
    "empty_like rand_like randn_like contiguous",
)
def unary(d: Draw) -> Drawn:
    return [d.tensor()], {}


@sampler("round.decimals")
def round_decimals(d: Draw) -> Drawn:
    return [d.tensor()], {"decimals": 2}


@sampler("threshold")
def threshold(d: Draw) -> Drawn:
    return [d.tensor()], {"threshold": 0.5, "value": 1}


@sampler(
    overloads("add sub rsub mul remainder fmod div true_divide eq ne lt le gt ge", "Tensor"),
    overloads("bitwise_and bitwise_or bitwise_xor", "Tensor"),
    "maximum minimum max.other min.other fmax fmin pow.Tensor_Tensor atan2 copysign.Tensor hypot logaddexp",
    "xlogy.Tensor floor_divide logical_and logical_or logical_xor clamp_min.Tensor clamp_max.Tensor",
)
def binary(d: Draw) -> Drawn:
    shape = d.shape()
    a, b = d.dtype(), d.dtype()
    if d.flag():
        b = a
    return [TensorType(a, d.broadcastable(shape)), TensorType(b, d.broadcastable(shape))], {}


@sampler(
    overloads("add sub rsub mul remainder fmod div true_divide eq ne lt le gt ge floor_divide", "Scalar"),
    "copysign.Scalar xlogy.Scalar_Other",
)
def with_number(d: Draw) -> Drawn:
    return [d.tensor()], {"other": d.one((2, 0.5, True, -3, 1.0, S))}


@sampler(overloads("bitwise_and bitwise_or bitwise_xor", "Scalar"))
def bitwise_number(d: Draw) -> Drawn:
    return [d.tensor()], {"other": d.one((2, True, 1))}


@sampler(overloads("bitwise_and bitwise_or bitwise_xor", "Scalar_Tensor"))
def bitwise_from_number(d: Draw) -> Drawn:
    return [d.tensor()], {"self": d.one((2, True, 1))}


@sampler("remainder.Scalar_Tensor pow.Scalar xlogy.Scalar_Self")
def from_number(d: Draw) -> Drawn:
    return [d.tensor()], {"self": d.number()}


@sampler("pow.Tensor_Scalar")
def power(d: Draw) -> Drawn:
    return [d.tensor()], {"exponent": d.one((2, 0.5, True, 3.0))}


@sampler("div.Tensor_mode")
def division(d: Draw) -> Drawn:
    operands, _ = binary(d)
    return operands, {"rounding_mode": d.one(("floor", "trunc", None))}


@sampler("div.Scalar_mode")
def division_number(d: Draw) -> Drawn:
    return [d.tensor()], {"other": d.number(), "rounding_mode": d.one(("floor", "trunc", None))}


@sampler("where.self")
def where(d: Draw) -> Drawn:
    shape = d.shape()
    parts = [TensorType(t, d.broadcastable(shape)) for t in (DType.BOOL, d.dtype(), d.dtype())]
    return list(parts), {}


@sampler("where.ScalarOther")
def where_other(d: Draw) -> Drawn:
    shape = d.shape()
    return [TensorType(DType.BOOL, d.broadcastable(shape)), TensorType(d.dtype(), shape)], {"other": d.number()}


@sampler("where.ScalarSelf")
def where_self(d: Draw) -> Drawn:
    shape = d.shape()
    return [TensorType(DType.BOOL, shape), TensorType(d.dtype(), d.broadcastable(shape))], {"self": d.number()}


@sampler("where.Scalar")
def where_scalars(d: Draw) -> Drawn:
    return [d.tensor(dtypes=(DType.BOOL,))], {"self": d.number(), "other": d.number()}


@sampler("clamp clip")
def clamp(d: Draw) -> Drawn:
    return [d.tensor()], {"min": d.one((None, 0, -0.5)), "max": d.one((2, 1.5, None))}


@sampler("clamp_min clamp_max")
def clamp_min(d: Draw) -> Drawn:
    return [d.tensor()], {d.op.removeprefix("clamp_"): d.number()}


@sampler("clamp.Tensor clip.Tensor")
def clamp_tensors(d: Draw) -> Drawn:
    shape = d.shape()
    limits = [d.optional(TensorType(d.dtype(), d.broadcastable(shape))) for _ in range(2)]
    return [TensorType(d.dtype(), d.broadcastable(shape)), *limits], {}


@sampler("masked_fill.Scalar")
def masked_fill(d: Draw) -> Drawn:
    shape = d.shape()
    x, mask = TensorType(d.dtype(), shape), TensorType(DType.BOOL, d.broadcastable(shape))
    return [x, mask], {"value": d.number()}


@sampler("masked_fill.Tensor")
def masked_fill_tensor(d: Draw) -> Drawn:
    operands, _ = masked_fill(d)
    return [*operands, TensorType(d.dtype(), ())], {}


@sampler("lerp.Scalar")
def lerp(d: Draw) -> Drawn:
    shape, dtype = d.shape(), d.dtype(FLOATS)
    return [TensorType(dtype, d.broadcastable(shape)) for _ in range(2)], {"weight": 0.5}


@sampler("lerp.Tensor addcmul addcdiv")
def ternary(d: Draw) -> Drawn:
    shape, dtype = d.shape(), d.dtype(FLOATS)
    return [TensorType(dtype, d.broadcastable(shape)) for _ in range(3)], {}


@sampler("prelu")
def prelu(d: Draw) -> Drawn:
    dtype = d.dtype(FLOATS)
    x = TensorType(dtype, d.shape(2, 4))
    return [x, TensorType(dtype, d.one(((1,), (x.shape[1],), ())))], {}
