"""Powers, exponentials and logarithms, and functions built of them."""

from __future__ import annotations

import math

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor, equals
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Lowering, lowers, lowers_each
from graphopt.ir import DType


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
    near = e.op("Where", equals(e, rounded, 0), x, near)
    return e.op("Where", e.op("Less", e.op("Abs", x), 0.5, dtype=DType.BOOL), near, log)


_LOGARITHMS = {"aten.log2": 0.6931471805599453, "aten.log10": 2.302585092994046}


def _logarithm(scale: float) -> Lowering:
    return lambda e, a: e.op("Div", e.op("Log", e.cast(a.self, a.out.dtype)), scale)


lowers_each(_LOGARITHMS, _logarithm)


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
    both_zero = e.op("And", equals(e, x, 0), equals(e, y, 0))
    return e.op("Where", both_zero, zero, angle)


@lowers("aten.hypot")
def _lower_hypot(e: Emitter, a: Call) -> Tensor:
    x, y = e.cast(a.self, a.out.dtype), e.cast(a.other, a.out.dtype)
    return e.op("Sqrt", e.op("Add", e.op("Mul", x, x), e.op("Mul", y, y)))


@lowers("aten.logit")
def _lower_logit(e: Emitter, a: Call) -> Tensor:
    """`log(x / (1 - x))`, of x brought into [eps, 1 - eps]."""
    x = e.cast(a.self, a.out.dtype)
    if a.eps is not None:
        x = e.op("Clip", x, e.scalar(float(a.eps), x.dtype), e.scalar(1.0 - a.eps, x.dtype))
    return e.op("Log", e.op("Div", x, e.op("Sub", e.scalar(1.0, x.dtype), x)))


@lowers("aten.heaviside")
def _lower_heaviside(e: Emitter, a: Call) -> Tensor:
    positive = e.cast(e.op("Greater", a.self, 0, dtype=DType.BOOL), a.out.dtype)
    return e.op("Where", equals(e, a.self, 0), a.values, positive)
