"""Shifts of integers. ONNX has them for unsigned ones alone, so a shift is a product or a quotient by a power of two.

As in PyTorch, a count that is negative, or no less than the width, shifts all bits out: what is left is 0, or, to the
right of a negative number, -1.
"""

from __future__ import annotations

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor
from graphopt.backends.onnx.lowerings.division import floor_divide
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.ir import DType


@lowers(
    "aten.bitwise_left_shift.Tensor",
    "aten.bitwise_left_shift.Tensor_Scalar",
    "aten.__lshift__.Scalar",
    "aten.__lshift__.Tensor",
)
def _lower_left_shift(e: Emitter, a: Call) -> Tensor:
    """`x · 2ⁿ`, and `x · 0` where all bits go."""
    width = a.out.dtype.bits
    powers = torch.tensor([1 << n if n < 63 else -(1 << 63) for n in range(width)] + [0])
    return e.cast(e.op("Mul", as_tensor(e, a.self, DType.I64), _power(e, a, powers)), a.out.dtype)


@lowers(
    "aten.bitwise_right_shift.Tensor",
    "aten.bitwise_right_shift.Tensor_Scalar",
    "aten.__rshift__.Scalar",
    "aten.__rshift__.Tensor",
)
def _lower_right_shift(e: Emitter, a: Call) -> Tensor:
    """`⌊x / 2ⁿ⌋`: of narrow types by 2 to the width where all bits go; of i64, whose width is no power in i64, in two
    steps."""
    x, width = as_tensor(e, a.self, DType.I64), a.out.dtype.bits
    if width < 64:
        powers = torch.tensor([1 << n for n in range(width + 1)])
        return e.cast(floor_divide(e, x, _power(e, a, powers)), a.out.dtype)
    first = torch.tensor([1 << n for n in range(63)] + [1 << 62] * 2)
    second = torch.tensor([1] * 63 + [2, 4])
    return floor_divide(e, floor_divide(e, x, _power(e, a, first)), _power(e, a, second))


def _power(e: Emitter, a: Call, powers: torch.Tensor) -> Tensor:
    """The power of two for each count: the last of `powers` for a count that has no other."""
    last = len(powers) - 1
    if not isinstance(a.other, Tensor):
        return e.scalar(int(powers[a.other if 0 <= a.other < last else last]), DType.I64)
    count = e.cast(a.other, DType.I64)
    if count.data is not None:
        return e.constant(powers[torch.where((count.data >= 0) & (count.data < last), count.data, last)])
    low = e.op("Less", count, 0, dtype=DType.BOOL)
    count = e.op(
        "Where", e.op("Or", low, e.op("Greater", count, last, dtype=DType.BOOL)), e.scalar(last, DType.I64), count
    )
    return e.op("Gather", e.constant(powers), count, shape=count.shape)
