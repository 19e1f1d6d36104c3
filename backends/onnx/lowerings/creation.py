"""Tensors made from numbers: fills, ranges, random numbers."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor, common_dtype
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import counting, expand, full, reshape, unsqueeze
from graphopt.ir import DType, Expr
from graphopt.ir.dims import product

FOLD_LIMIT = 4096
"""Ranges of at most this many elements are stored, longer ones are computed."""


@lowers(
    "aten.zeros",
    "aten.new_zeros",
    "aten.zeros_like",
    "aten.empty.memory_format",
    "aten.new_empty",
    "aten.empty_like",
    "aten.empty_strided",
    "aten.new_empty_strided",
    "aten.empty_permuted",
)
def _lower_zeros(e: Emitter, a: Call) -> Tensor:
    """Zeros; what is "empty" in PyTorch may hold anything, so zeros do."""
    return full(e, a.out.shape, 0, a.out.dtype)


@lowers("aten.ones", "aten.new_ones", "aten.ones_like")
def _lower_ones(e: Emitter, a: Call) -> Tensor:
    return full(e, a.out.shape, 1, a.out.dtype)


@lowers("aten.full", "aten.new_full", "aten.full_like")
def _lower_full(e: Emitter, a: Call) -> Tensor:
    if isinstance(a.fill_value, Expr):
        return expand(e, e.scalar(a.fill_value, a.out.dtype), a.out.shape)
    return full(e, a.out.shape, a.fill_value, a.out.dtype)


@lowers("aten.scalar_tensor")
def _lower_scalar_tensor(e: Emitter, a: Call) -> Tensor:
    return as_tensor(e, a.s, a.out.dtype)


@lowers("aten.arange", "aten.arange.start", "aten.arange.start_step")
def _lower_arange(e: Emitter, a: Call) -> Tensor:
    """`start + i*step`; the count is in the type, so that no rounding of the end can change it."""
    start, step = getattr(a, "start", 0), getattr(a, "step", 1)
    count, dtype = a.out.shape[0], a.out.dtype
    numbers = all(isinstance(n, int | float) for n in (start, step))
    if isinstance(count, int) and count <= FOLD_LIMIT and numbers:
        return e.constant(_arange(start, step, count, dtype), "range")
    work = DType.I64 if not dtype.is_floating and not isinstance(start, float) else dtype
    x = e.cast(counting(e, count), work)
    if step != 1:
        x = e.op("Mul", x, as_tensor(e, step, work))
    if start != 0:
        x = e.op("Add", x, as_tensor(e, start, work))
    return x


def _arange(start: Any, step: Any, count: int, dtype: DType) -> torch.Tensor:
    exact = torch.int64 if isinstance(start, int) and isinstance(step, int) else torch.float64
    return (torch.arange(count, dtype=exact) * step + start).to(dtype.torch)


@lowers("aten.linspace")
def _lower_linspace(e: Emitter, a: Call) -> Tensor:
    if isinstance(a.steps, Expr) or isinstance(a.start, Expr) or isinstance(a.end, Expr):
        raise Declined("linspace with a dynamic number of steps")
    return e.constant(torch.linspace(a.start, a.end, a.steps, dtype=a.out.dtype.torch), "linspace")


@lowers("aten.eye", "aten.eye.m")
def _lower_eye(e: Emitter, a: Call) -> Tensor:
    rows, columns = a.out.shape
    row, column = (unsqueeze(e, counting(e, n), [axis]) for n, axis in ((rows, 1), (columns, 0)))
    return e.cast(e.op("Equal", row, column, dtype=DType.BOOL), a.out.dtype)


@lowers("aten.one_hot")
def _lower_one_hot(e: Emitter, a: Call) -> Tensor:
    if a.num_classes == -1:
        raise Declined("one_hot without the number of classes")
    classes = unsqueeze(e, a.self, [a.self.rank])
    hot = e.op("Equal", classes, e.cast(counting(e, a.out.shape[-1]), a.self.dtype), dtype=DType.BOOL)
    return e.cast(hot, a.out.dtype)


@lowers("aten.tril", "aten.triu")
def _lower_triangle(e: Emitter, a: Call) -> Tensor:
    upper = 1 if a.node.op.name == "aten.triu" else 0
    return e.op("Trilu", a.self, e.scalar(a.diagonal, DType.I64), upper=upper)


@lowers("aten.tril_indices", "aten.triu_indices")
def _lower_triangle_indices(e: Emitter, a: Call) -> Tensor:
    make = torch.tril_indices if a.node.op.name == "aten.tril_indices" else torch.triu_indices
    if isinstance(a.row, Expr) or isinstance(a.col, Expr):
        raise Declined("the indices of a triangle of dynamic size")
    return e.constant(make(a.row, a.col, a.offset).to(a.out.dtype.torch), "indices")


def _random(e: Emitter, op_type: str, a: Call, **attributes: Any) -> Tensor:
    """Random numbers of the result's type and shape."""
    dtype = a.out.dtype if a.out.dtype in (DType.F32, DType.F64) else DType.F32
    code = 11 if dtype is DType.F64 else 1
    if all(isinstance(d, int) for d in a.out.shape):
        return e.op(op_type, dtype=dtype, shape=a.out.shape, shape_=a.out.shape, dtype_=code, **attributes)
    like = e.op("ConstantOfShape", e.sizes.vector(a.out.shape), dtype=DType.F32, shape=a.out.shape)
    return e.op(f"{op_type}Like", like, dtype=dtype, shape=a.out.shape, dtype_=code, **attributes)


@lowers("aten.rand", "aten.rand_like")
def _lower_rand(e: Emitter, a: Call) -> Tensor:
    return _random(e, "RandomUniform", a)


@lowers("aten.randn", "aten.randn_like")
def _lower_randn(e: Emitter, a: Call) -> Tensor:
    return _random(e, "RandomNormal", a)


@lowers("aten.bernoulli", "aten.bernoulli.p")
def _lower_bernoulli(e: Emitter, a: Call) -> Tensor:
    """1 with probability p: where a uniform number falls below p."""
    p = getattr(a, "p", None)
    uniform = _random(e, "RandomUniform", a)
    return e.op("Less", uniform, as_tensor(e, a.self if p is None else p, uniform.dtype), dtype=DType.BOOL)


@lowers("aten.randint", "aten.randint.low", "aten.randint_like", "aten.randint_like.low_dtype")
def _lower_randint(e: Emitter, a: Call) -> Tensor:
    low = getattr(a, "low", 0)
    if isinstance(low, Expr) or isinstance(a.high, Expr):
        raise Declined("randint with a dynamic range")
    return e.op("Floor", _random(e, "RandomUniform", a, low=float(low), high=float(a.high)))


@lowers("aten.randperm")
def _lower_randperm(e: Emitter, a: Call) -> Tensor:
    """The order that sorts random numbers."""
    count = a.out.shape[0]
    like = e.op("ConstantOfShape", e.sizes.vector([count]), dtype=DType.F32, shape=(count,))
    numbers = e.op("RandomUniformLike", like, dtype=DType.F32, shape=(count,), dtype_=1)
    return e.ops("TopK", numbers, [count], dtypes=(None, DType.I64), axis=0)[1]


@lowers("aten.bucketize.Tensor", "aten.searchsorted.Tensor")
def _lower_bucketize(e: Emitter, a: Call) -> Tensor:
    """The number of boundaries below x (`right`: not above x)."""
    edges = a.boundaries if a.node.op.name == "aten.bucketize.Tensor" else a.sorted_sequence
    if edges.rank != 1 or getattr(a, "sorter", None) is not None:
        raise Declined("searchsorted in more than one sequence")
    dtype = common_dtype(a.self, edges)
    right = a.right or getattr(a, "side", None) == "right"
    x = unsqueeze(e, e.cast(a.self, dtype), [a.self.rank])
    below = e.op("LessOrEqual" if right else "Less", e.cast(edges, dtype), x, dtype=DType.BOOL)
    return e.op("ReduceSum", e.cast(below, DType.I64), [a.self.rank], keepdims=0)


@lowers("aten.histc")
def _lower_histc(e: Emitter, a: Call) -> Tensor:
    """Counts in equal bins from min to max, the last one closed; values outside are not counted."""
    if a.min == a.max:
        raise Declined("histc over the range of the data")
    x = reshape(e, a.self, (product(a.self.dims), 1))
    wide = e.cast(x, DType.F32) if x.dtype is not DType.F64 else x
    offset = e.op("Sub", wide, float(a.min))
    place = e.op("Floor", e.op("Div", e.op("Mul", offset, float(a.bins)), float(a.max - a.min)))
    place = e.op(
        "Where", e.op("Equal", wide, float(a.max), dtype=DType.BOOL), e.scalar(float(a.bins - 1), wide.dtype), place
    )
    bins = e.cast(counting(e, a.bins), wide.dtype)
    hits = e.op("Equal", place, bins, dtype=DType.BOOL)
    return e.op("ReduceSum", e.cast(hits, DType.I64), [0], keepdims=0)
