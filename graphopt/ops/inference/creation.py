"""Tensors made from sizes and numbers, and conversions of dtype and device."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isfinite
from typing import Any

from graphopt.ir import DType, Expr, ScalarKind, ScalarType, TensorType
from graphopt.ir.dims import Dim, ceildiv, dim_max, less
from graphopt.ops.inference.promotion import default_float, number_dtype
from graphopt.ops.inference.shapes import wrap
from graphopt.ops.inference.table import Mismatch, Result, rule


def _made(
    size: Sequence[Dim], dtype: DType | None, layout: str | None, device: str | None, default: DType
) -> TensorType | None:
    if layout not in (None, "strided"):
        return None
    for dim in size:
        if less(dim, 0) is True:
            raise Mismatch(f"the size {dim} is negative")
    return TensorType(dtype or default, tuple(size), device or "cpu")


@rule("rand randn")
def random(size: Sequence[Dim], dtype: DType | None = None, *rest: Any) -> Result:
    """Random numbers are floats."""
    return filled(size, dtype, *rest) if dtype is None or dtype.is_floating else None


@rule("zeros ones empty.memory_format")
def filled(
    size: Sequence[Dim], dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any
) -> Result:
    """The default dtype is the default float."""
    return _made(size, dtype, layout, device, default_float())


@rule("full")
def full(
    size: Sequence[Dim],
    value: Any,
    dtype: DType | None = None,
    layout: Any = None,
    device: str | None = None,
    *_: Any,
) -> Result:
    """The default dtype is the number's."""
    return _made(size, dtype, layout, device, number_dtype(value))


@rule("scalar_tensor")
def scalar_tensor(
    value: Any, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any
) -> Result:
    """A tensor of rank 0, of the default float unless told otherwise."""
    return _made((), dtype, layout, device, default_float())


@rule("eye")
def eye(n: Dim, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any) -> Result:
    """The identity matrix."""
    return _made((n, n), dtype, layout, device, default_float())


@rule("eye.m")
def eye_m(n: Dim, m: Dim, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any) -> Result:
    """A rectangular identity matrix."""
    return _made((n, m), dtype, layout, device, default_float())


@rule("linspace")
def linspace(
    start: Any,
    end: Any,
    steps: Dim,
    dtype: DType | None = None,
    layout: Any = None,
    device: str | None = None,
    *_: Any,
) -> Result:
    """Evenly spaced numbers."""
    if isinstance(start, complex) or isinstance(end, complex):
        return None
    return _made((steps,), dtype, layout, device, default_float())


@rule("arange")
def arange(end: Any, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any) -> Result:
    """0, 1, … below `end`."""
    return arange_step(0, end, 1, dtype, layout, device)


@rule("arange.start")
def arange_start(
    start: Any, end: Any, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any
) -> Result:
    """Start, start + 1, … below `end`."""
    return arange_step(start, end, 1, dtype, layout, device)


@rule("arange.start_step")
def arange_step(
    start: Any,
    end: Any,
    step: Any = 1,
    dtype: DType | None = None,
    layout: Any = None,
    device: str | None = None,
    *_: Any,
) -> Result:
    """⌈(end − start)/step⌉ numbers, integers if all three are."""
    numbers = (start, end, step)
    if all(type(n) is int or isinstance(n, Expr) for n in numbers):
        if step == 0 or less(step, 0) is None:
            return None
        length = ceildiv(end - start, step) if less(step, 0) is False else ceildiv(start - end, -step)
        if less(length, 0) is True:
            raise Mismatch(f"a step of {step} does not lead from {start} to {end}")
        return _made((dim_max(length, 0),), dtype, layout, device, DType.I64)
    if not all(type(n) in (int, float) and isfinite(n) for n in numbers) or step == 0:
        return None
    span = (end - start) / step
    if dtype is not None and not dtype.is_floating:
        return None  # PyTorch truncates the bounds first
    return None if span < 0 else _made((ceil(span),), dtype, layout, device, default_float())


@rule("rand_like randn_like")
def random_like(x: TensorType, dtype: DType | None = None, *rest: Any) -> Result:
    """Random numbers are floats."""
    return like(x, dtype, *rest) if (dtype or x.dtype).is_floating else None


@rule("zeros_like ones_like empty_like")
def like(x: TensorType, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any) -> Result:
    """Another tensor's shape, dtype and device, unless told otherwise."""
    if layout not in (None, "strided"):
        return None
    return TensorType(dtype or x.dtype, x.shape, device or x.device)


@rule("full_like")
def full_like(
    x: TensorType,
    _value: Any,
    dtype: DType | None = None,
    layout: Any = None,
    device: str | None = None,
    *_: Any,
) -> Result:
    """Another tensor's shape filled with a number."""
    return like(x, dtype, layout, device)


@rule("new_zeros new_ones new_empty")
def new_filled(
    x: TensorType,
    size: Sequence[Dim],
    dtype: DType | None = None,
    layout: Any = None,
    device: str | None = None,
    *_: Any,
) -> Result:
    """Another tensor's dtype and device with a new shape."""
    return _made(size, dtype, layout, device or x.device, x.dtype)


@rule("new_full")
def new_full(
    x: TensorType,
    size: Sequence[Dim],
    _value: Any,
    dtype: DType | None = None,
    layout: Any = None,
    device: str | None = None,
    *_: Any,
) -> Result:
    """Another tensor's dtype and device with a new shape, filled with a number."""
    return _made(size, dtype, layout, device or x.device, x.dtype)


@rule("_to_copy")
def to_copy(
    x: TensorType, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any
) -> Result:
    """A cast, a move, or both."""
    return like(x, dtype, layout, device)


@rule("to.dtype")
def to_dtype(x: TensorType, dtype: DType, *_: Any) -> Result:
    """A cast."""
    return x.with_dtype(dtype)


@rule("to.device")
def to_device(x: TensorType, device: str, dtype: DType, *_: Any) -> Result:
    """A move and a cast."""
    return TensorType(dtype, x.shape, device)


@rule("to.dtype_layout")
def to_dtype_layout(
    x: TensorType, dtype: DType | None = None, layout: Any = None, device: str | None = None, *_: Any
) -> Result:
    """A cast, a move, or both."""
    return like(x, dtype, layout, device)


@rule("type_as to.other")
def type_as(x: TensorType, other: TensorType, *_: Any) -> Result:
    """Another tensor's dtype and device."""
    return TensorType(other.dtype, x.shape, other.device)


@rule("view.dtype")
def view_dtype(x: TensorType, dtype: DType) -> Result:
    """The same bits under another dtype of the same width."""
    return x.with_dtype(dtype) if dtype.bits == x.dtype.bits and not dtype.is_complex else None


@rule("sym_size.int")
def sym_size(x: TensorType, dim: int) -> Result:
    """One size, as a number."""
    return ScalarType(ScalarKind.INT, x.shape[wrap(dim, len(x.shape))]) if x.shape else None


@rule("meshgrid meshgrid.indexing")
def meshgrid(tensors: Sequence[TensorType], indexing: str = "ij") -> Result:
    """Coordinates of a grid spanned by vectors."""
    if not tensors or any(len(t.shape) > 1 or t.dtype is not tensors[0].dtype for t in tensors):
        return None
    shape = [t.shape[0] if t.shape else 1 for t in tensors]
    if indexing == "xy" and len(shape) > 1:
        shape[:2] = shape[1::-1]
    return [t.with_shape(tuple(shape)) for t in tensors] if indexing in ("ij", "xy") else None
