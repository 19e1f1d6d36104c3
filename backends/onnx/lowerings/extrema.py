"""Extrema, bounds and signs."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor, equals
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.ir import DType, Node, Value


@lowers("aten.maximum", "aten.minimum", "aten.max.other", "aten.min.other")
def _lower_extremum(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    x, y = e.cast(a.self, dtype), e.cast(a.other, dtype)
    largest = "max" in a.node.op.name
    if dtype is DType.BOOL:
        return e.op("Or" if largest else "And", x, y)
    return e.op("Max" if largest else "Min", x, y)


@lowers(
    "aten.clamp",
    "aten.clamp.Tensor",
    "aten.clamp_min",
    "aten.clamp_max",
    "aten.clamp_min.Tensor",
    "aten.clamp_max.Tensor",
    "aten.clip",
    "aten.clip.Tensor",
)
def _lower_clamp(e: Emitter, a: Call) -> Tensor:
    dtype = a.out.dtype
    x = e.cast(a.self, dtype)
    low, high = (getattr(a, name, None) for name in ("min", "max"))
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        line = _line(a.node) if (low, high) == (0, 1) and dtype is DType.F32 else None
        if line is not None:
            source, slope, offset = line
            return e.op("HardSigmoid", e.tensor(source), alpha=slope, beta=offset)
        return clip(e, x, low, high)
    if low is not None:
        x = e.op("Max", x, as_tensor(e, low, dtype))
    return x if high is None else e.op("Min", x, as_tensor(e, high, dtype))


def _line(node: Node) -> tuple[Value, float, float] | None:
    """x, α and β, where αx + β is bounded and nothing else uses it: a hard sigmoid of other numbers than PyTorch's."""
    total = _sole_producer(node.operands[0], "aten.add.Scalar")
    product = _sole_producer(total.operands[0], "aten.mul.Scalar") if total is not None else None
    if total is None or product is None or total.attr("alpha") != 1:
        return None
    source, slope, offset = product.operands[0], product.attr("other"), total.attr("other")
    fits = source is not None and source.type == node.results[0].type
    if not fits or not isinstance(slope, int | float) or not isinstance(offset, int | float):
        return None
    assert source is not None
    return source, float(slope), float(offset)


def _sole_producer(value: Value | None, op: str) -> Node | None:
    node = value.producer if value is not None and value.num_uses == 1 else None
    return node if node is not None and node.op.name == op else None


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
    return e.op("Where", _is_signed(e, as_tensor(e, a.other, a.out.dtype)), e.op("Neg", size), size)


def _is_signed(e: Emitter, x: Tensor) -> Tensor:
    sign = e.op("Where", equals(e, x, 0), e.op("Reciprocal", x), x) if x.dtype.is_floating else x
    return e.op("Less", sign, 0, dtype=DType.BOOL)


@lowers("aten.signbit")
def _lower_signbit(e: Emitter, a: Call) -> Tensor:
    """Of NaN, false: its sign cannot be seen."""
    return _is_signed(e, e.cast(a.self, DType.U8) if a.self.dtype is DType.BOOL else a.self)


@lowers("aten.nan_to_num")
def _lower_nan_to_num(e: Emitter, a: Call) -> Tensor:
    x = a.self
    if not x.dtype.is_floating:
        return x
    limits = torch.finfo(x.dtype.torch)
    high = limits.max if a.posinf is None else a.posinf
    low = limits.min if a.neginf is None else a.neginf
    infinite = [e.op("Equal", x, bound, dtype=DType.BOOL) for bound in (float("inf"), float("-inf"))]
    y = e.op("Where", infinite[0], e.scalar(high, x.dtype), x)
    y = e.op("Where", infinite[1], e.scalar(low, x.dtype), y)
    return e.op("Where", e.op("IsNaN", x, dtype=DType.BOOL), e.scalar(a.nan or 0.0, x.dtype), y)
