"""Arithmetic, element by element."""

from __future__ import annotations

import math
from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Lowering, lowers, lowers_each
from graphopt.ir import DType

# Operators that are one ONNX operator on the operand in the result's type.
UNARY = {
    "aten.abs": "Abs",
    "aten.neg": "Neg",
    "aten.ceil": "Ceil",
    "aten.floor": "Floor",
    "aten.round": "Round",
    "aten.sign": "Sign",
    "aten.sgn": "Sign",
    "aten.exp": "Exp",
    "aten.log": "Log",
    "aten.sqrt": "Sqrt",
    "aten.reciprocal": "Reciprocal",
    "aten.sin": "Sin",
    "aten.cos": "Cos",
    "aten.tan": "Tan",
    "aten.asin": "Asin",
    "aten.acos": "Acos",
    "aten.atan": "Atan",
    "aten.sinh": "Sinh",
    "aten.cosh": "Cosh",
    "aten.asinh": "Asinh",
    "aten.acosh": "Acosh",
    "aten.atanh": "Atanh",
    "aten.tanh": "Tanh",
    "aten.erf": "Erf",
    "aten.sigmoid": "Sigmoid",
}
_IDENTITY_ON_INTEGERS = {"Ceil", "Floor", "Round"}


def _unary(op_type: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        x = e.cast(a.self, a.out.dtype)
        if op_type in _IDENTITY_ON_INTEGERS and not x.dtype.is_floating:
            return x
        if op_type == "Neg" and x.dtype is DType.U8:
            return e.op("Sub", e.scalar(0, x.dtype), x)
        return e.op(op_type, x)

    return lower


lowers_each(UNARY, _unary)


def add(e: Emitter, x: Any, y: Any, dtype: DType, alpha: Any = 1) -> Tensor:
    """`x + alpha*y` in `dtype`; on bools, or."""
    left, right = as_tensor(e, x, dtype), as_tensor(e, y, dtype)
    if dtype is DType.BOOL:
        return e.op("Or", left, right) if alpha else left
    if alpha != 1:
        right = e.op("Mul", right, e.scalar(alpha, dtype))
    return e.op("Add", left, right)


@lowers("aten.add.Tensor", "aten.add.Scalar")
def _lower_add(e: Emitter, a: Call) -> Tensor:
    return add(e, a.self, a.other, a.out.dtype, a.alpha)


def subtract(e: Emitter, x: Any, y: Any, dtype: DType, alpha: Any) -> Tensor:
    """`x - alpha*y` in `dtype`."""
    left, right = as_tensor(e, x, dtype), as_tensor(e, y, dtype)
    if alpha != 1:
        right = e.op("Mul", right, e.scalar(alpha, dtype))
    return e.op("Sub", left, right)


@lowers("aten.sub.Tensor", "aten.sub.Scalar")
def _lower_sub(e: Emitter, a: Call) -> Tensor:
    return subtract(e, a.self, a.other, a.out.dtype, a.alpha)


@lowers("aten.rsub.Tensor", "aten.rsub.Scalar")
def _lower_rsub(e: Emitter, a: Call) -> Tensor:
    return subtract(e, a.other, a.self, a.out.dtype, a.alpha)


@lowers("aten.mul.Tensor", "aten.mul.Scalar")
def _lower_mul(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    op_type = "And" if dtype is DType.BOOL else "Mul"
    return e.op(op_type, as_tensor(e, a.self, dtype), as_tensor(e, a.other, dtype))


@lowers("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor")
def _lower_div(e: Emitter, a: Call) -> Tensor:
    return e.op("Div", as_tensor(e, a.self, a.out.dtype), as_tensor(e, a.other, a.out.dtype))


@lowers("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def _lower_div_mode(e: Emitter, a: Call) -> Tensor:
    x, y = as_tensor(e, a.self, a.out.dtype), as_tensor(e, a.other, a.out.dtype)
    if a.rounding_mode == "floor":
        return floor_divide(e, x, y)
    quotient = e.op("Div", x, y)
    return truncate(e, quotient) if a.rounding_mode == "trunc" else quotient


@lowers("aten.floor_divide", "aten.floor_divide.Scalar")
def _lower_floor_divide(e: Emitter, a: Call) -> Tensor:
    return floor_divide(e, as_tensor(e, a.self, a.out.dtype), as_tensor(e, a.other, a.out.dtype))


def floor_divide(e: Emitter, x: Tensor, y: Tensor) -> Tensor:
    """`x // y` rounded towards minus infinity, as Python does: the remainder is taken off first, so that the
    quotient is a whole number before rounding (1.0 // 0.1 is 9, though 1.0 / 0.1 rounds to 10)."""
    if x.dtype in (DType.U8, DType.BOOL):
        return e.op("Div", x, y)
    if not x.dtype.is_floating:
        return e.op("Div", e.op("Sub", x, e.op("Mod", x, y)), y)
    rest = e.op("Mod", x, y, fmod=1)
    whole = e.op("Round", e.op("Div", e.op("Sub", x, rest), y))
    floored = e.op("Where", _other_sign(e, rest, y), e.op("Sub", whole, 1.0), whole)
    return e.op("Where", _equals(e, y, 0), e.op("Div", x, y), floored)


def _equals(e: Emitter, x: Tensor, value: float) -> Tensor:
    return e.op("Equal", x, value, dtype=DType.BOOL)


def _other_sign(e: Emitter, rest: Tensor, y: Tensor) -> Tensor:
    """Where a remainder is not zero and its sign is not the divisor's."""
    nonzero = e.op("Not", _equals(e, rest, 0), dtype=DType.BOOL)
    negative = [e.op("Less", t, 0, dtype=DType.BOOL) for t in (rest, y)]
    return e.op("And", nonzero, e.op("Xor", *negative))


@lowers("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def _lower_remainder(e: Emitter, a: Call) -> Tensor:
    x, y = as_tensor(e, a.self, a.out.dtype), as_tensor(e, a.other, a.out.dtype)
    if not x.dtype.is_floating:
        return e.op("Mod", x, y)
    rest = e.op("Mod", x, y, fmod=1)
    return e.op("Where", _other_sign(e, rest, y), e.op("Add", rest, y), rest)


@lowers("aten.fmod.Tensor", "aten.fmod.Scalar")
def _lower_fmod(e: Emitter, a: Call) -> Tensor:
    return e.op("Mod", as_tensor(e, a.self, a.out.dtype), as_tensor(e, a.other, a.out.dtype), fmod=1)


def truncate(e: Emitter, x: Tensor) -> Tensor:
    """Round towards zero."""
    if not x.dtype.is_floating:
        return x
    return e.op("Mul", e.op("Sign", x), e.op("Floor", e.op("Abs", x)))


@lowers("aten.trunc", "aten.fix")
def _lower_trunc(e: Emitter, a: Call) -> Tensor:
    return truncate(e, a.self)


@lowers("aten.frac")
def _lower_frac(e: Emitter, a: Call) -> Tensor:
    return e.op("Sub", a.self, truncate(e, a.self))


@lowers("aten.round.decimals")
def _lower_round_decimals(e: Emitter, a: Call) -> Tensor:
    if not a.self.dtype.is_floating:
        return a.self
    power = float(10 ** abs(a.decimals))
    up, down = ("Mul", "Div") if a.decimals >= 0 else ("Div", "Mul")
    return e.op(down, e.op("Round", e.op(up, a.self, power)), power)


@lowers("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar")
def _lower_pow(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    base = as_tensor(e, a.self, dtype)
    if isinstance(a.exponent, int | float) and dtype.is_floating:
        return _power(e, base, float(a.exponent))
    return e.op("Pow", base, as_tensor(e, a.exponent, dtype))


def _power(e: Emitter, x: Tensor, exponent: float) -> Tensor:
    """A power with the shortcuts that PyTorch takes. 2 and 3 stay powers: runtimes look for them in fusions."""
    if exponent == 0.5:
        return e.op("Sqrt", x)
    if exponent == -0.5:
        return e.op("Reciprocal", e.op("Sqrt", x))
    if exponent == -1:
        return e.op("Reciprocal", x)
    return x if exponent == 1 else e.op("Pow", x, exponent)


@lowers("aten.square")
def _lower_square(e: Emitter, a: Call) -> Tensor:
    return e.op("Mul", a.self, a.self)


@lowers("aten.rsqrt")
def _lower_rsqrt(e: Emitter, a: Call) -> Tensor:
    return e.op("Reciprocal", e.op("Sqrt", e.cast(a.self, a.out.dtype)))


@lowers("aten.exp2")
def _lower_exp2(e: Emitter, a: Call) -> Tensor:
    x = e.cast(a.self, a.out.dtype)
    return e.op("Pow", e.scalar(2.0, x.dtype), x)


@lowers("aten.expm1")
def _lower_expm1(e: Emitter, a: Call) -> Tensor:
    """`exp(x) - 1 = tanh(x/2) * (exp(x) + 1)`, which keeps its digits near zero."""
    x = e.cast(a.self, a.out.dtype)
    return e.op("Mul", e.op("Tanh", e.op("Mul", x, 0.5)), e.op("Add", e.op("Exp", x), 1.0))


@lowers("aten.log1p")
def _lower_log1p(e: Emitter, a: Call) -> Tensor:
    """`log(1 + x)`. Near zero with u = fl(1 + x) it is `x * log(u)/(u - 1)`: the rounding of u cancels."""
    x = e.cast(a.self, a.out.dtype)
    u = e.op("Add", x, 1.0)
    log = e.op("Log", u)
    rounded = e.op("Sub", u, 1.0)
    near = e.op("Mul", log, e.op("Div", x, rounded))
    near = e.op("Where", _equals(e, rounded, 0), x, near)
    return e.op("Where", e.op("Less", e.op("Abs", x), 0.5, dtype=DType.BOOL), near, log)


_LOGARITHMS = {"aten.log2": 0.6931471805599453, "aten.log10": 2.302585092994046}


def _logarithm(scale: float) -> Lowering:
    return lambda e, a: e.op("Div", e.op("Log", e.cast(a.self, a.out.dtype)), scale)


lowers_each(_LOGARITHMS, _logarithm)


@lowers("aten.addcmul", "aten.addcdiv")
def _lower_addc(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    op_type = "Mul" if a.node.op.name == "aten.addcmul" else "Div"
    left = e.cast(a.tensor1, dtype)
    if a.value != 1:
        left = e.op("Mul", left, e.scalar(a.value, dtype))
    return e.op("Add", e.cast(a.self, dtype), e.op(op_type, left, e.cast(a.tensor2, dtype)))


@lowers("aten.lerp.Scalar", "aten.lerp.Tensor")
def _lower_lerp(e: Emitter, a: Call) -> Tensor:
    """`start + w*(end - start)`, from whichever end is nearer, as PyTorch rounds it."""
    weight = as_tensor(e, a.weight, a.out.dtype)
    difference = e.op("Sub", a.end, a.self)
    low = e.op("Add", a.self, e.op("Mul", weight, difference))
    high = e.op("Sub", a.end, e.op("Mul", difference, e.op("Sub", e.scalar(1.0, weight.dtype), weight)))
    near_start = e.op("Less", e.op("Abs", weight), 0.5, dtype=DType.BOOL)
    return e.op("Where", near_start, low, high)


@lowers("aten.maximum", "aten.minimum", "aten.max.other", "aten.min.other")
def _lower_extremum(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    x, y = e.cast(a.self, dtype), e.cast(a.other, dtype)
    largest = "max" in a.node.op.name
    if dtype is DType.BOOL:
        return e.op("Or" if largest else "And", x, y)
    return e.op("Max" if largest else "Min", x, y)


@lowers("aten.clamp", "aten.clamp.Tensor", "aten.clamp_min", "aten.clamp_max", "aten.clamp_min.Tensor",
        "aten.clamp_max.Tensor", "aten.clip", "aten.clip.Tensor")
def _lower_clamp(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    x = e.cast(a.self, dtype)
    low, high = (getattr(a, name, None) for name in ("min", "max"))
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return clip(e, x, low, high)
    if low is not None:
        x = e.op("Max", x, as_tensor(e, low, dtype))
    return x if high is None else e.op("Min", x, as_tensor(e, high, dtype))


def clip(e: Emitter, x: Tensor, low: Any, high: Any) -> Tensor:
    """Bound by numbers; None is no bound. To a runtime no bound is the largest finite number, so infinity is given."""
    if x.dtype.is_floating:
        low, high = (-math.inf if low is None else low), (math.inf if high is None else high)
    bounds = [None if bound is None else e.scalar(bound, x.dtype) for bound in (low, high)]
    return e.op("Clip", x, *bounds)


@lowers("aten.fmax", "aten.fmin")
def _lower_fmax(e: Emitter, a: Call) -> Tensor:
    """An extreme that passes over NaN."""
    dtype = a.out.dtype
    x, y = e.cast(a.self, dtype), e.cast(a.other, dtype)
    z = e.op("Max" if a.node.op.name == "aten.fmax" else "Min", x, y)
    if not dtype.is_floating:
        return z
    z = e.op("Where", e.op("IsNaN", x, dtype=DType.BOOL), y, z)
    return e.op("Where", e.op("IsNaN", y, dtype=DType.BOOL), x, z)


@lowers("aten.copysign.Tensor", "aten.copysign.Scalar")
def _lower_copysign(e: Emitter, a: Call) -> Tensor:
    """A negative zero shows in its reciprocal."""
    size = e.op("Abs", e.cast(a.self, a.out.dtype))
    other = as_tensor(e, a.other, a.out.dtype)
    sign = e.op("Where", _equals(e, other, 0), e.op("Reciprocal", other), other)
    return e.op("Where", e.op("Less", sign, 0.0, dtype=DType.BOOL), e.op("Neg", size), size)


@lowers("aten.erfc")
def _lower_erfc(e: Emitter, a: Call) -> Tensor:
    x = e.cast(a.self, a.out.dtype)
    return e.op("Sub", e.scalar(1.0, x.dtype), e.op("Erf", x))


@lowers("aten.logaddexp", "aten.logaddexp2")
def _lower_logaddexp(e: Emitter, a: Call) -> Tensor:
    """`max(x, y) + log(1 + exp(-|x - y|))`; equal infinities are their own result."""
    x, y = e.cast(a.self, a.out.dtype), e.cast(a.other, a.out.dtype)
    base = 1.0 if a.node.op.name == "aten.logaddexp" else math.log(2.0)
    gap = e.op("Neg", e.op("Abs", e.op("Sub", x, y)))
    gap = gap if base == 1.0 else e.op("Mul", gap, base)
    rise = e.op("Log", e.op("Add", e.op("Exp", gap), 1.0))
    rise = rise if base == 1.0 else e.op("Div", rise, base)
    same = e.op("And", e.op("Equal", x, y, dtype=DType.BOOL), e.op("IsInf", x, dtype=DType.BOOL))
    return e.op("Where", same, x, e.op("Add", e.op("Max", x, y), rise))


@lowers("aten.atan2")
def _lower_atan2(e: Emitter, a: Call) -> Tensor:
    """The angle of (x, y): `atan(y/x)`, half a turn further where x is negative."""
    y, x = e.cast(a.self, a.out.dtype), e.cast(a.other, a.out.dtype)
    zero, half_turn = e.scalar(0.0, x.dtype), e.scalar(math.pi, x.dtype)
    below = e.op("Less", y, 0.0, dtype=DType.BOOL)
    turn = e.op("Where", below, e.op("Neg", half_turn), half_turn)
    turn = e.op("Where", e.op("Less", x, 0.0, dtype=DType.BOOL), turn, zero)
    angle = e.op("Add", e.op("Atan", e.op("Div", y, x)), turn)
    both_zero = e.op("And", _equals(e, x, 0), _equals(e, y, 0))
    return e.op("Where", both_zero, zero, angle)


@lowers("aten.hypot")
def _lower_hypot(e: Emitter, a: Call) -> Tensor:
    x, y = e.cast(a.self, a.out.dtype), e.cast(a.other, a.out.dtype)
    return e.op("Sqrt", e.op("Add", e.op("Mul", x, x), e.op("Mul", y, y)))


@lowers("aten.nan_to_num")
def _lower_nan_to_num(e: Emitter, a: Call) -> Tensor:
    x = a.self
    if not x.dtype.is_floating:
        return x
    import torch

    limits = torch.finfo(x.dtype.torch)
    high = limits.max if a.posinf is None else a.posinf
    low = limits.min if a.neginf is None else a.neginf
    infinite = [e.op("Equal", x, bound, dtype=DType.BOOL) for bound in (float("inf"), float("-inf"))]
    y = e.op("Where", infinite[0], e.scalar(high, x.dtype), x)
    y = e.op("Where", infinite[1], e.scalar(low, x.dtype), y)
    return e.op("Where", e.op("IsNaN", x, dtype=DType.BOOL), e.scalar(a.nan or 0.0, x.dtype), y)
