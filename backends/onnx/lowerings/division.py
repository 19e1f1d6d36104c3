"""Quotients and remainders, and rounding towards zero."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor, equals
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.ir import DType


@lowers("aten.div.Tensor", "aten.div.Scalar", "aten.true_divide.Tensor", "aten.divide.Tensor")
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
    return e.op("Where", equals(e, y, 0), e.op("Div", x, y), floored)


def _other_sign(e: Emitter, rest: Tensor, y: Tensor) -> Tensor:
    """Where a remainder is not zero and its sign is not the divisor's."""
    nonzero = e.op("Not", equals(e, rest, 0), dtype=DType.BOOL)
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
