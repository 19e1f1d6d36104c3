"""Arithmetic, element by element."""

from __future__ import annotations

import math
from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Lowering, lowers, lowers_each
from graphopt.ir import DType, Value

# Operators that are one ONNX operator on the operand in the result's type.
UNARY = {
    "aten.abs": "Abs",
    "aten.absolute": "Abs",
    "aten.negative": "Neg",
    "aten.special_expit": "Sigmoid",
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
    if _is_normalized(a):
        return e.op("Sum", a.self, a.other)
    return add(e, a.self, a.other, a.out.dtype, a.alpha)


def _is_normalized(a: Call) -> bool:
    """True for the sum of two computed values that a layer norm reads.

    ONNX Runtime joins `Add` and `LayerNormalization` to an operator that takes three times as long as the two (measured
    in 1.32 on one core: 117 µs against 24 for 64 × 384); not so `Sum`.
    """
    operands, result = a.node.operands, a.node.results[0]
    if a.node.op.name != "aten.add.Tensor" or a.alpha != 1 or a.out.dtype is not DType.F32:
        return False
    alike = all(v is not None and not v.is_constant and v.type == result.type for v in operands)
    return alike and any(use.node.op.name == "aten.layer_norm" and use.index == 0 for use in result.uses)


def subtract(e: Emitter, x: Any, y: Any, dtype: DType, alpha: Any) -> Tensor:
    """`x - alpha*y` in `dtype`."""
    left, right = as_tensor(e, x, dtype), as_tensor(e, y, dtype)
    if alpha != 1:
        right = e.op("Mul", right, e.scalar(alpha, dtype))
    return e.op("Sub", left, right)


@lowers("aten.sub.Tensor", "aten.sub.Scalar", "aten.subtract.Tensor")
def _lower_sub(e: Emitter, a: Call) -> Tensor:
    return subtract(e, a.self, a.other, a.out.dtype, a.alpha)


@lowers("aten.rsub.Tensor", "aten.rsub.Scalar")
def _lower_rsub(e: Emitter, a: Call) -> Tensor:
    return subtract(e, a.other, a.self, a.out.dtype, a.alpha)


@lowers("aten.mul.Tensor", "aten.mul.Scalar", "aten.multiply.Tensor")
def _lower_mul(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    root = _divided_root(a)
    if root is not None:
        x, radicand = (e.tensor(value) for value in root)
        return e.op("Div", x, e.op("Sqrt", radicand))
    op_type = "And" if dtype is DType.BOOL else "Mul"
    return e.op(op_type, as_tensor(e, a.self, dtype), as_tensor(e, a.other, dtype))


def _divided_root(a: Call) -> tuple[Value, Value] | None:
    """For `x * rsqrt(v)`, where nothing else reads the root: x and v. Runtimes know RMS norm by its division."""
    for x, root in (a.node.operands, a.node.operands[::-1]) if len(a.node.operands) == 2 else ():
        producer = None if root is None else root.producer
        if x is None or root is None or producer is None or producer.op.name != "aten.rsqrt" or root.num_uses != 1:
            continue
        (radicand,) = producer.operands
        if radicand is not None and {t.dtype for t in (x, radicand)} == {a.out.dtype} and a.out.dtype.is_floating:
            return x, radicand
    return None


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


@lowers("aten.deg2rad", "aten.rad2deg")
def _lower_angle(e: Emitter, a: Call) -> Tensor:
    factor = math.pi / 180 if a.node.op.name == "aten.deg2rad" else 180 / math.pi
    return e.op("Mul", e.cast(a.self, a.out.dtype), factor)
