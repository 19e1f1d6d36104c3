"""Unsigned integers of 16 bits and more, for which PyTorch has tensors and conversions, but hardly any arithmetic.

Sums, differences, products and bit patterns are the same in two's complement, so they are computed in i64 and wrap on
their way back. Orders are kept by i64 for all but u64, whose values are moved down by 2⁶³ first; its quotients and
shifts to the right are put together from signed ones.
"""

from __future__ import annotations

import torch

from graphopt.frontends.onnx.application import Application, tensor_type
from graphopt.ir import DType, Value

_WITHOUT_KERNELS = (DType.U16, DType.U32, DType.U64)


def is_unsigned(dtype: DType) -> bool:
    """True for integers that are never negative."""
    return dtype is DType.U8 or dtype in _WITHOUT_KERNELS


def as_signed(a: Application, value: Value) -> Value:
    """The value in i64 if its dtype has no kernels, else as it is."""
    return a.cast(value, DType.I64) if tensor_type(value).dtype in _WITHOUT_KERNELS else value


def from_signed(a: Application, value: Value, dtype: DType) -> Value:
    """The reverse: i64 back in the dtype, modulo its range."""
    return a.cast(value, dtype) if dtype in _WITHOUT_KERNELS else value


def ordered(a: Application, value: Value, dtype: DType | None = None) -> Value:
    """A value that compares in i64 as the unsigned one does. It is its own inverse, for u64 taken to i64 before;
    dtype: what it stands for, where it is i64 already."""
    dtype = tensor_type(value).dtype if dtype is None else dtype
    value = as_signed(a, value)
    if dtype is not DType.U64:
        return value
    return a.emit("aten.bitwise_xor.Tensor", value, a.constant(torch.tensor(torch.iinfo(torch.int64).min)))


def shifted_right(a: Application, value: Value, count: Value) -> Value:
    """`value >> count` of u64, whose bits both are in i64: by one first, which leaves the sign bit clear."""
    one, most = a.constant(torch.tensor(1)), a.constant(torch.tensor(torch.iinfo(torch.int64).max))
    halved = a.emit("aten.bitwise_and.Tensor", a.emit("aten.bitwise_right_shift.Tensor", value, one), most)
    rest = a.emit("aten.bitwise_right_shift.Tensor", halved, a.emit("aten.sub.Tensor", count, one))
    return a.emit("aten.where.self", a.emit("aten.eq.Scalar", count, 0), value, rest)


def divided(a: Application, value: Value, by: Value) -> tuple[Value, Value]:
    """Quotient and remainder of u64, whose bits are in i64.

    A divisor of 2⁶³ or more goes once or not at all. Else `q = 2·((n >> 1) / d)` is at most one too small.
    """
    one = a.constant(torch.tensor(1))
    halved = shifted_right(a, value, one)
    doubled = a.emit("aten.mul.Scalar", a.emit("aten.div.Tensor_mode", halved, by, rounding_mode="trunc"), 2)
    estimate = a.emit("aten.where.self", a.emit("aten.lt.Scalar", by, 0), a.constant(torch.tensor(0)), doubled)
    rest = a.emit("aten.sub.Tensor", value, a.emit("aten.mul.Tensor", estimate, by))
    again = a.emit("aten.ge.Tensor", ordered(a, rest, DType.U64), ordered(a, by, DType.U64))
    quotient = a.emit("aten.add.Tensor", estimate, a.cast(again, DType.I64))
    remainder = a.emit("aten.where.self", again, a.emit("aten.sub.Tensor", rest, by), rest)
    return quotient, remainder
