"""Random numbers: the same distributions, not the same draws. A node's seed has no counterpart in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.entries import Entry
from graphopt.ir import DType, Value
from graphopt.ir.dims import Dim
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE


def _dtype(a: Application, default: DType) -> DType:
    code = a.attr("dtype")
    return default if code is None else FROM_ONNX_CODE[code]


def _asked(a: Application) -> tuple[Sequence[Dim], DType]:
    """The shape and dtype, as attributes or those of the operand."""
    if a.name.endswith("Like"):
        return a.type(0).shape, _dtype(a, a.type(0).dtype)
    return a.attr("shape"), _dtype(a, DType.F32)


def _line(a: Application, x: Value, factor: float, offset: float) -> Value:
    scaled = x if factor == 1 else a.emit("aten.mul.Scalar", x, factor)
    return scaled if offset == 0 else a.emit("aten.add.Scalar", scaled, offset)


@translates("RandomUniform", "RandomUniformLike")
def random_uniform(a: Application) -> Value:
    """Evenly between `low` and `high`."""
    shape, dtype = _asked(a)
    low, high = a.attr("low", 0.0), a.attr("high", 1.0)
    return _line(a, a.emit("aten.rand", shape, dtype=dtype), high - low, low)


@translates("RandomNormal", "RandomNormalLike")
def random_normal(a: Application) -> Value:
    """Normal of the given mean and standard deviation."""
    shape, dtype = _asked(a)
    return _line(a, a.emit("aten.randn", shape, dtype=dtype), a.attr("scale", 1.0), a.attr("mean", 0.0))


@translates("Bernoulli")
def bernoulli(a: Application) -> Value:
    """One with the probability that the operand gives, else zero."""
    return a.cast(a.emit("aten.bernoulli", a[0]), _dtype(a, a.type(0).dtype))


@translates("Multinomial")
def multinomial(a: Application) -> Value:
    """Classes, drawn with replacement by their logarithmic probabilities up to a constant."""
    chances = a.emit("aten.softmax.int", a[0], -1)
    drawn = a.emit("aten.multinomial", chances, a.attr("sample_size", 1), True)
    return a.cast(drawn, _dtype(a, DType.I32))


@translates("Dropout")
def dropout(a: Application) -> Any:
    """The operand itself at inference, with a mask that is all true. In training each element is zero with probability
    `ratio`, the others are scaled by 1/(1 − ratio)."""
    ratio, mask = _ratio(a), DType.BOOL if a.version >= 10 else a.type(0).dtype
    if not ratio:
        kept: Entry = a.inputs[0]
        return [kept] if not a.uses(1) else [kept, a.emit("aten.ones_like", a[0], dtype=mask)]
    if ratio == 1:
        raise Declined("dropout of everything")
    if not a.uses(1):
        return a.emit("aten.dropout", a[0], ratio, True)
    result, drawn = a.emit_all("aten.native_dropout", a[0], ratio, True)
    return [result, a.cast(drawn, mask)]


def _ratio(a: Application) -> float:
    """The share that is dropped, 0 at inference."""
    if a.version < 7:
        return 0.0 if a.attr("is_test", 0) else float(a.attr("ratio", 0.5))
    if a.version < 12 or not a.has(2) or not a.numbers(2)[0]:
        return 0.0
    if tensor_type(a[0]).dtype is DType.BOOL:
        raise Declined("dropout of truth values")
    return float(a.numbers(1)[0]) if a.has(1) else 0.5
