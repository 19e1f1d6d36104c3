"""Comparisons, logic and selection by a condition."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor, common_dtype
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Lowering, lowers, lowers_each
from graphopt.backends.onnx.shaping import full
from graphopt.ir import DType

_COMPARISONS = {"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"}


def _comparison(op_type: str) -> Lowering:
    """Both sides are promoted to one type, as PyTorch does, before they are compared."""

    def lower(e: Emitter, a: Call) -> Tensor:
        dtype = common_dtype(a.self, a.other)
        x, y = as_tensor(e, a.self, dtype), as_tensor(e, a.other, dtype)
        if op_type == "NotEqual":
            return e.op("Not", e.op("Equal", x, y, dtype=DType.BOOL))
        return e.op(op_type, x, y, dtype=DType.BOOL)

    return lower


_ALIASES = {
    "not_equal": "NotEqual",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "greater": "Greater",
    "greater_equal": "GreaterOrEqual",
}

lowers_each(
    {
        f"aten.{name}.{kind}": op_type
        for name, op_type in {**_COMPARISONS, "ne": "NotEqual", **_ALIASES}.items()
        for kind in ("Tensor", "Scalar")
    },
    _comparison,
)


def _logical(op_type: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        return e.op(op_type, e.cast(a.self, DType.BOOL), e.cast(a.other, DType.BOOL))

    return lower


lowers_each({"aten.logical_and": "And", "aten.logical_or": "Or", "aten.logical_xor": "Xor"}, _logical)


@lowers("aten.logical_not")
def _lower_logical_not(e: Emitter, a: Call) -> Tensor:
    return e.op("Not", e.cast(a.self, DType.BOOL))


def _bitwise(name: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        dtype = a.out.dtype
        x, y = as_tensor(e, a.self, dtype), as_tensor(e, a.other, dtype)
        return e.op(name if dtype is DType.BOOL else f"Bitwise{name}", x, y)

    return lower


lowers_each(
    {
        f"aten.{prefix}{name}{suffix}.{kind}": op_type
        for name, op_type in {"and": "And", "or": "Or", "xor": "Xor"}.items()
        for prefix, suffix in (("bitwise_", ""), ("__", "__"))
        for kind in ("Tensor", "Scalar")
    },
    _bitwise,
)


@lowers("aten.bitwise_not")
def _lower_bitwise_not(e: Emitter, a: Call) -> Tensor:
    return e.op("Not" if a.out.dtype is DType.BOOL else "BitwiseNot", a.self)


@lowers("aten.isnan")
def _lower_isnan(e: Emitter, a: Call) -> Tensor:
    if not a.self.dtype.is_floating:
        return full(e, a.out.shape, False, DType.BOOL)
    return e.op("IsNaN", a.self, dtype=DType.BOOL)


@lowers("aten.isinf", "aten.isposinf", "aten.isneginf")
def _lower_isinf(e: Emitter, a: Call) -> Tensor:
    if not a.self.dtype.is_floating:
        return full(e, a.out.shape, False, DType.BOOL)
    name = a.node.op.name
    return e.op(
        "IsInf",
        a.self,
        dtype=DType.BOOL,
        detect_negative=0 if name == "aten.isposinf" else None,
        detect_positive=0 if name == "aten.isneginf" else None,
    )


@lowers("aten.isfinite")
def _lower_isfinite(e: Emitter, a: Call) -> Tensor:
    """Less than infinity in size, which NaN is not."""
    if not a.self.dtype.is_floating:
        return full(e, a.out.shape, True, DType.BOOL)
    return e.op("Less", e.op("Abs", a.self), float("inf"), dtype=DType.BOOL)


@lowers("aten.isclose")
def _lower_isclose(e: Emitter, a: Call) -> Tensor:
    """`|x - y| <= atol + rtol*|y|`, or the same value."""
    dtype = common_dtype(a.self, a.other)
    x, y = e.cast(a.self, dtype), e.cast(a.other, dtype)
    wide = dtype if dtype.is_floating else DType.F64
    same = e.op("Equal", x, y, dtype=DType.BOOL)
    size = e.op("Abs", e.cast(y, wide))
    allowed = e.op("Add", e.op("Mul", size, a.rtol), a.atol)
    error = e.op("Abs", e.op("Sub", e.cast(x, wide), e.cast(y, wide)))
    near = e.op("LessOrEqual", error, allowed, dtype=DType.BOOL)
    finite = e.op("Less", error, float("inf"), dtype=DType.BOOL)
    close = e.op("Or", same, e.op("And", near, finite))
    if not a.equal_nan or not dtype.is_floating:
        return close
    both = e.op("And", e.op("IsNaN", x, dtype=DType.BOOL), e.op("IsNaN", y, dtype=DType.BOOL))
    return e.op("Or", close, both)


@lowers("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def _lower_where(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    condition = e.cast(a.condition, DType.BOOL)
    return e.op("Where", condition, as_tensor(e, a.self, dtype), as_tensor(e, a.other, dtype))


@lowers("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _lower_masked_fill(e: Emitter, a: Call) -> Tensor:
    return e.op("Where", e.cast(a.mask, DType.BOOL), as_tensor(e, a.value, a.out.dtype), a.self)
