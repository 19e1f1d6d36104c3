"""Conditions that rules share: what is known of a value's type, range and finiteness."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import DType, Node, TensorType, Trait, Value
from graphopt.rewrite.pattern import Surroundings

_SCAN_LIMIT = 1 << 16
_DEPTH = 12

_KEEPS_FINITE = frozenset(
    f"aten.{name}"
    for name in [
        "relu",
        "neg",
        "abs",
        "sign",
        "sigmoid",
        "tanh",
        "sin",
        "cos",
        "erf",
        "hardtanh",
        "relu6",
        "hardsigmoid",
        "floor",
        "ceil",
        "round",
        "trunc",
        "minimum",
        "maximum",
        "where",
        "masked_fill",
        "cat",
        "stack",
        "clamp",
        "clamp_min",
        "clamp_max",
        "softmax",
        "_softmax",
        "reshape",
        "view",
        "_unsafe_view",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "t",
        "expand",
        "slice",
        "select",
        "narrow",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "repeat",
        "flip",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "amax",
        "amin",
        "max_pool2d",
    ]
)
_CASTS = frozenset({"aten._to_copy", "aten.to"})


def dtype_of(value: Any) -> DType | None:
    """The element type of a tensor value, or None."""
    return value.type.dtype if isinstance(value, Value) and isinstance(value.type, TensorType) else None


def is_floating(value: Value) -> bool:
    """True for real floating-point tensors."""
    dtype = dtype_of(value)
    return dtype is not None and dtype.is_floating


def is_integral(value: Value) -> bool:
    """True for integers and bool."""
    dtype = dtype_of(value)
    return dtype is not None and (dtype.is_integer or dtype is DType.BOOL)


def is_bool(value: Value) -> bool:
    """True for bool tensors."""
    return dtype_of(value) is DType.BOOL


def is_number(value: Any) -> bool:
    """True for an attribute that is an int or float, bool excluded."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_EXACT = frozenset(
    f"aten.{name}"
    for name in [
        "neg",
        "abs",
        "relu",
        "relu6",
        "hardtanh",
        "clamp",
        "clamp_min",
        "clamp_max",
        "floor",
        "ceil",
        "round",
        "trunc",
        "sign",
        "frac",
        "sqrt",
        "reciprocal",
        "square",
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_not",
        "bitwise_not",
        "isnan",
        "isinf",
        "isfinite",
        "signbit",
        "_to_copy",
        "where",
        "masked_fill",
        "leaky_relu",
        "threshold",
        "maximum",
        "minimum",
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
    ]
)


def is_exact(node: Node) -> bool:
    """True if the node rounds each element correctly, or not at all, so that its place in memory cannot matter.

    Kernels of other functions (sigmoid, gelu) are vectorized with another approximation than the scalar code that
    computes the last few elements; moving an element can change its last bit. So can x + α y, where only the
    vectorized code fuses the product.
    """
    return node.op.base in _EXACT and node.attributes.get("alpha", 1) == 1


def is_unary(node: Node) -> bool:
    """True if the node maps its first operand element by element, without any other tensor that has dims.

    Such a node commutes with every permutation and reshape of the elements.
    """
    traits = node.op.traits
    if Trait.PURE not in traits or len(node.results) != 1:
        return False
    if Trait.ELEMENTWISE not in traits and not _is_plain_cast(node):
        return False
    operands = node._operands
    first = operands[0] if operands else None
    if first is None or not isinstance(first.type, TensorType) or not isinstance(node.results[0].type, TensorType):
        return False
    if first.type.shape != node.results[0].type.shape:
        return False
    for other in operands[1:]:
        if other is not None and (not isinstance(other.type, TensorType) or other.type.shape):
            return False
    return True


def _is_plain_cast(node: Node) -> bool:
    attributes = node.attributes
    return node.op.name == "aten._to_copy" and attributes.get("memory_format") is None


def is_finite(value: Value, depth: int = _DEPTH) -> bool:
    """True if no element can be infinite or NaN, whatever the inputs of the graph are."""
    if is_integral(value):
        return True
    if not is_floating(value) or depth == 0:
        return False
    if value.constant is not None:
        return _is_finite_constant(value)
    node = value.producer
    if node is None:
        return False
    if node.op.base in _CASTS:
        source = node._operands[0]
        return source is not None and (_fits(source, value) or _widens(source, value, depth))
    if node.op.base in _KEEPS_FINITE or node.op.base in ("aten.full", "aten.zeros", "aten.ones", "aten.full_like"):
        largest = torch.finfo(value.dtype.torch).max
        numbers = [a for a in node.attributes.values() if is_number(a)]
        return all(abs(a) <= largest for a in numbers) and all(is_finite(v, depth - 1) for v in node.inputs)
    return False


_MOVES = """reshape view _unsafe_view flatten unflatten squeeze unsqueeze permute transpose t expand slice select narrow
split repeat flip contiguous clone alias detach cat stack minimum maximum amax amin"""
_KEEPS_SIGN = frozenset(f"aten.{name}" for name in _MOVES.split())
_SMALL = 1 << 40
"""Sums of a few numbers up to this do not overflow."""


def is_nonnegative(value: Value, surroundings: Surroundings, depth: int = _DEPTH) -> bool:
    """True if no element of an integer tensor can be negative: it counts from 0 on, or is made of such numbers."""
    dtype = dtype_of(value)
    if dtype is None or not is_integral(value) or depth == 0:
        return False
    if dtype is DType.BOOL or not is_signed(dtype):
        return True
    if value.constant is not None:
        tensor = value.constant.tensor
        small = tensor.numel() <= _SCAN_LIMIT and bool(((tensor >= 0) & (tensor <= _SMALL)).all())
        return surroundings.is_fixed(value) and small
    node = value.producer
    if node is None:
        return False
    if node.op.base == "aten.arange":
        start, step = node.attributes.get("start", 0), node.attributes.get("step", 1)
        return isinstance(start, int) and isinstance(step, int) and start >= 0 and step > 0
    if node.op.base == "aten.add":
        number = node.attributes.get("other", 0)
        if (
            dtype is not DType.I64
            or not is_number(number)
            or not 0 <= number <= _SMALL
            or node.attributes["alpha"] != 1
        ):
            return False
    elif node.op.base in _CASTS:
        source = dtype_of(node._operands[0])
        if source is None or source.bits > dtype.bits:
            return False
    elif node.op.base not in _KEEPS_SIGN:
        return False
    return all(is_nonnegative(source, surroundings, depth - 1) for source in node.inputs)


def _fits(source: Value, target: Value) -> bool:
    """Integers fit floats, but for the large ones in float16."""
    if not is_integral(source):
        return False
    return dtype_of(target) is not DType.F16 or dtype_of(source) in (DType.BOOL, DType.I8, DType.U8, DType.I16)


def _widens(source: Value, target: Value, depth: int) -> bool:
    before, after = dtype_of(source), dtype_of(target)
    return before is not None and after is not None and is_exact_cast(before, after) and is_finite(source, depth - 1)


def _is_finite_constant(value: Value) -> bool:
    assert value.constant is not None
    tensor = value.constant.tensor
    return tensor.numel() <= _SCAN_LIMIT and bool(tensor.isfinite().all())


_MANTISSA = {DType.F16: 11, DType.BF16: 8, DType.F32: 24, DType.F64: 53}
_WIDER = {
    DType.F16: {DType.F32, DType.F64},
    DType.BF16: {DType.F32, DType.F64},
    DType.F32: {DType.F64},
    DType.F8E4M3FN: {DType.F16, DType.BF16, DType.F32, DType.F64},
    DType.F8E5M2: {DType.F16, DType.BF16, DType.F32, DType.F64},
}


def is_exact_cast(source: DType, target: DType) -> bool:
    """True if every value of `source` is a value of `target`."""
    if source is target or source is DType.BOOL:
        return not target.is_complex or source is target
    if source.is_integer:
        if target.is_integer:
            signed, wide = is_signed(source), is_signed(target)
            return (
                target.bits > source.bits if signed != wide and wide else signed == wide and target.bits >= source.bits
            )
        bits = source.bits - is_signed(source)
        # 2^15 and up exceeds float16's range only beyond its mantissa, so the mantissa decides.
        return target in _MANTISSA and bits <= _MANTISSA[target]
    return target in _WIDER.get(source, ())


def is_signed(dtype: DType) -> bool:
    """True for signed integers."""
    return dtype.is_integer and not dtype.value.startswith("u")


def integer_range(dtype: DType) -> tuple[int, int]:
    """The smallest and largest value of an integer type (0 and 1 for bool)."""
    if dtype is DType.BOOL:
        return 0, 1
    if is_signed(dtype):
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1
