"""Reductions over dims."""

from __future__ import annotations

import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.unsigned import as_signed, from_signed, is_unsigned, ordered
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import product


def _axes(a: Application) -> list[int] | None:
    """The dims to reduce; None for all of them, an empty list for none."""
    axes = a.ints("axes", 1)
    rank = a.type(0).rank
    if not axes:
        return [] if a.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in axes]


@translates("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin")
def reduce_plain(a: Application) -> Value:
    """Sum, mean, product, maximum or minimum; the result has the dtype of the operand."""
    x, dtype = a[0], a.type(0).dtype
    if a.name in ("ReduceMax", "ReduceMin"):
        return from_signed(a, ordered(a, _reduced(a, ordered(a, x), a.name), dtype), dtype)
    if dtype is DType.U64 and a.name == "ReduceMean":
        raise Declined("PyTorch has no mean of u64")
    return from_signed(a, _reduced(a, as_signed(a, x), a.name), dtype)


@translates("ReduceSumSquare")
def reduce_sum_square(a: Application) -> Value:
    """Σ x²."""
    x = as_signed(a, a[0])
    return from_signed(a, _reduced(a, a.emit("aten.mul.Tensor", x, x), "ReduceSum"), a.type(0).dtype)


@translates("ReduceL1")
def reduce_l1(a: Application) -> Value:
    """Σ |x|."""
    dtype, axes = a.type(0).dtype, _axes(a)
    if dtype.is_floating and axes:
        return a.emit("aten.linalg_vector_norm", a[0], 1, axes, bool(a.attr("keepdims", 1)))
    x = as_signed(a, a[0]) if is_unsigned(dtype) else a.emit("aten.abs", a[0])
    return from_signed(a, _reduced(a, x, "ReduceSum"), dtype)


@translates("ReduceL2")
def reduce_l2(a: Application) -> Value:
    """√Σ x²."""
    x, dtype = _real(a), a.type(0).dtype
    axes = _axes(a)
    if dtype.is_floating and axes:
        return a.emit("aten.linalg_vector_norm", x, 2, axes, bool(a.attr("keepdims", 1)))
    return a.cast(a.emit("aten.sqrt", _reduced(a, a.emit("aten.mul.Tensor", x, x), "ReduceSum")), dtype)


@translates("ReduceLogSum")
def reduce_log_sum(a: Application) -> Value:
    """log Σ x."""
    return a.cast(a.emit("aten.log", _reduced(a, _real(a), "ReduceSum")), a.type(0).dtype)


@translates("ReduceLogSumExp")
def reduce_log_sum_exp(a: Application) -> Value:
    """log Σ exp(x), stable."""
    axes, keep = _axes(a), bool(a.attr("keepdims", 1))
    return a.cast(a.emit("aten.logsumexp", _real(a), axes, keep), a.type(0).dtype) if axes else a[0]


def _real(a: Application) -> Value:
    """The operand, integers as f64."""
    return a[0] if a.type(0).dtype.is_floating else a.cast(a[0], DType.F64)


def _reduced(a: Application, x: Value, name: str) -> Value:
    axes, keep, dtype = _axes(a), bool(a.attr("keepdims", 1)), tensor_type(x).dtype
    if not axes:
        return x
    if name == "ReduceSum":
        return a.emit("aten.sum.dim_IntList", x, axes, keep, dtype=dtype)
    if name == "ReduceMean":
        if dtype.is_floating:
            return a.emit("aten.mean.dim", x, axes, keep)
        total = a.emit("aten.sum.dim_IntList", x, axes, keep, dtype=DType.I64)
        count = product(tensor_type(x).shape[axis] for axis in axes)
        return a.cast(a.emit("aten.div.Scalar_mode", total, count, rounding_mode="trunc"), dtype)
    if name == "ReduceProd":
        for axis in sorted(axes, reverse=True):
            x = a.emit("aten.prod.dim_int", x, axis, keep, dtype=dtype)
        return x
    return _extremum(a, x, axes, keep, largest=name == "ReduceMax")


def _extremum(a: Application, x: Value, axes: list[int], keep: bool, *, largest: bool) -> Value:
    """Also of no elements at all: then it is the least or greatest number that there is."""
    dims, dtype = tensor_type(x).shape, tensor_type(x).dtype
    if any(isinstance(dims[axis], int) and dims[axis] == 0 for axis in axes):
        low, high = _range(dtype)
        shape = [1 if i in axes else d for i, d in enumerate(dims) if keep or i not in axes]
        return a.emit("aten.full", shape, low if largest else high, dtype=dtype)
    return a.emit("aten.amax" if largest else "aten.amin", x, axes, keep)


def _range(dtype: DType) -> tuple[float, float]:
    if dtype is DType.BOOL:
        return 0, 1
    if dtype.is_floating:
        return float("-inf"), float("inf")
    return torch.iinfo(dtype.torch).min, torch.iinfo(dtype.torch).max


@translates("ArgMax", "ArgMin")
def arg_extremum(a: Application) -> Value:
    """The index of the first, or last, maximum or minimum along a dim."""
    x, axis, keep = a[0], a.attr("axis", 0), bool(a.attr("keepdims", 1))
    name = "aten.argmax" if a.name == "ArgMax" else "aten.argmin"
    if not a.attr("select_last_index", 0):
        return a.emit(name, x, axis, keep)
    a.compose()
    index = a.emit(name, a.emit("aten.flip", x, [axis]), axis, keep)
    last = tensor_type(x).shape[axis] - 1
    return a.emit("aten.add.Scalar", a.emit("aten.neg", index), last)
