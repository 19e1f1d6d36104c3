"""Reductions along dims, and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Lowering, lowers, lowers_each
from graphopt.backends.onnx.shaping import counting, normal_axes, normal_axis, reshape, slice_, squeeze, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import product


def reduce(e: Emitter, op_type: str, x: Tensor, axes: Sequence[int], keepdim: bool = False) -> Tensor:
    """Reduce along `axes` (counted from the front). No axes: nothing to reduce."""
    if not axes:
        return _reduced_nothing(e, op_type, x)
    shape = [1 if i in axes else d for i, d in enumerate(x.dims) if keepdim or i not in axes]
    return e.op(op_type, x, list(axes), keepdims=int(bool(keepdim)), shape=shape)


def _reduced_nothing(e: Emitter, op_type: str, x: Tensor) -> Tensor:
    return e.op("Abs", x) if op_type in ("ReduceL1", "ReduceL2") else x


def _axes(a: Call, x: Tensor, name: str = "dim") -> list[int]:
    return normal_axes(getattr(a, name, None), x.rank)


def _keepdim(a: Call) -> bool:
    return bool(getattr(a, "keepdim", False))


def _reduction(op_type: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        x = e.cast(a.self, a.out.dtype)
        axes, keepdim = _axes(a, x), _keepdim(a)
        if op_type == "ReduceMean" and keepdim and x.dtype is DType.F32 and axes == list(range(2, x.rank)) != []:
            # The same mean; runtimes keep their own layout of images across it, and every opset has it.
            return e.op("GlobalAveragePool", x, shape=(*x.dims[:2], *[1] * len(axes)))
        return reduce(e, op_type, x, axes, keepdim)

    return lower


lowers_each(
    {
        "aten.sum": "ReduceSum",
        "aten.sum.dim_IntList": "ReduceSum",
        "aten.mean": "ReduceMean",
        "aten.mean.dim": "ReduceMean",
        "aten.prod": "ReduceProd",
        "aten.prod.dim_int": "ReduceProd",
        "aten.amax": "ReduceMax",
        "aten.amin": "ReduceMin",
        "aten.max": "ReduceMax",
        "aten.min": "ReduceMin",
    },
    _reduction,
)


@lowers("aten.logsumexp")
def _lower_logsumexp(e: Emitter, a: Call) -> Tensor:
    x = e.cast(a.self, a.out.dtype)
    return reduce(e, "ReduceLogSumExp", x, _axes(a, x), _keepdim(a))


def _any_or_all(op_type: str) -> Lowering:
    """Any is the maximum of bools, all the minimum. Computed in i32, where also nothing has an extreme: the sum."""

    def lower(e: Emitter, a: Call) -> Tensor:
        x = e.cast(a.self, DType.BOOL)
        if op_type == "ReduceMin":
            x = e.op("Not", x)
        count = reduce(e, "ReduceSum", e.cast(x, DType.I32), _axes(a, x), _keepdim(a))
        some = e.cast(count, DType.BOOL)
        return e.op("Not", some) if op_type == "ReduceMin" else some

    return lower


lowers_each(
    {
        f"aten.{name}{kind}": op
        for name, op in (("any", "ReduceMax"), ("all", "ReduceMin"))
        for kind in ("", ".dim", ".dims")
    },
    _any_or_all,
)


@lowers("aten.count_nonzero", "aten.count_nonzero.dim_IntList")
def _lower_count_nonzero(e: Emitter, a: Call) -> Tensor:
    x = e.cast(e.cast(a.self, DType.BOOL), DType.I64)
    return reduce(e, "ReduceSum", x, _axes(a, x))


def _extreme_index(op_type: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        return arg_extreme(e, op_type, a.self, a.dim, _keepdim(a))

    return lower


lowers_each({"aten.argmax": "ArgMax", "aten.argmin": "ArgMin"}, _extreme_index)


def arg_extreme(e: Emitter, op_type: str, x: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    """The index of the first extreme element along a dim, or in the flattened tensor."""
    rank = x.rank
    if rank == 0:
        return e.scalar(0, DType.I64)
    if dim is None:
        flat = reshape(e, x, (product(x.dims),))
        index = e.op(op_type, flat, axis=0, keepdims=0, dtype=DType.I64, shape=())
        return reshape(e, index, (1,) * rank) if keepdim else index
    return e.op(op_type, x, axis=normal_axis(dim, rank), keepdims=int(keepdim), dtype=DType.I64)


def _with_index(kind: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Sequence[Tensor]:
        values = reduce(e, f"Reduce{kind}", a.self, _axes(a, a.self), a.keepdim)
        return values, arg_extreme(e, f"Arg{kind}", a.self, a.dim, a.keepdim)

    return lower


lowers_each({"aten.max.dim": "Max", "aten.min.dim": "Min"}, _with_index)


@lowers("aten.aminmax")
def _lower_aminmax(e: Emitter, a: Call) -> Sequence[Tensor]:
    axes = _axes(a, a.self)
    return [reduce(e, op_type, a.self, axes, a.keepdim) for op_type in ("ReduceMin", "ReduceMax")]


def moments(e: Emitter, a: Call) -> tuple[Tensor, Tensor]:
    """The mean and the variance: `sum (x - mean)² / (n - correction)`."""
    x = e.cast(a.self, a.out.dtype)
    axes = _axes(a, x)
    mean = reduce(e, "ReduceMean", x, axes, True)
    centred = e.op("Sub", x, mean, shape=x.dims)
    squares = e.op("Mul", centred, centred, shape=x.dims)
    correction = getattr(a, "correction", None)
    if correction is None:
        correction = 1 if getattr(a, "unbiased", True) else 0
    keep = _keepdim(a)
    if correction == 0 and axes:
        variance = reduce(e, "ReduceMean", squares, axes, keep)
    else:
        count = product([x.dims[i] for i in axes])
        degrees: Any = max(count - correction, 0) if isinstance(count, int) else None
        divisor = e.scalar(degrees, x.dtype) if degrees is not None else _degrees(e, count, correction, x.dtype)
        variance = e.op("Div", reduce(e, "ReduceSum", squares, axes, keep), divisor)
    return (mean if keep else squeeze(e, mean, axes)), variance


def _degrees(e: Emitter, count: Any, correction: Any, dtype: DType) -> Tensor:
    degrees = e.op("Sub", e.scalar(count, dtype), e.scalar(correction, dtype))
    return e.op("Max", degrees, e.scalar(0, dtype))


@lowers("aten.var", "aten.var.dim", "aten.var.correction")
def _lower_var(e: Emitter, a: Call) -> Tensor:
    return moments(e, a)[1]


@lowers("aten.std", "aten.std.dim", "aten.std.correction")
def _lower_std(e: Emitter, a: Call) -> Tensor:
    return e.op("Sqrt", moments(e, a)[1])


@lowers(
    "aten.var_mean",
    "aten.var_mean.dim",
    "aten.var_mean.correction",
    "aten.std_mean",
    "aten.std_mean.dim",
    "aten.std_mean.correction",
)
def _lower_var_mean(e: Emitter, a: Call) -> Sequence[Tensor]:
    mean, variance = moments(e, a)
    return (e.op("Sqrt", variance) if "std" in a.node.op.name else variance), mean


@lowers(
    "aten.linalg_vector_norm",
    "aten.norm.Scalar",
    "aten.norm.ScalarOpt_dim",
    "aten.norm.ScalarOpt_dim_dtype",
    "aten.frobenius_norm.dim",
)
def _lower_vector_norm(e: Emitter, a: Call) -> Tensor:
    x = e.cast(a.self, a.out.dtype)
    order = getattr(a, "ord", getattr(a, "p", 2))
    return vector_norm(e, x, 2.0 if order is None else float(order), _axes(a, x), _keepdim(a))


def vector_norm(e: Emitter, x: Tensor, order: float, axes: Sequence[int], keepdim: bool) -> Tensor:
    """`(sum |x|^p)^(1/p)`, its limits at ±infinity, and at 0 the number of non-zeros."""
    if order in (1.0, 2.0):
        return reduce(e, f"ReduceL{int(order)}", x, axes, keepdim)
    if order == float("inf"):
        return reduce(e, "ReduceMax", e.op("Abs", x, shape=x.dims), axes, keepdim)
    if order == float("-inf"):
        return reduce(e, "ReduceMin", e.op("Abs", x, shape=x.dims), axes, keepdim)
    if order == 0.0:
        return reduce(e, "ReduceSum", e.cast(e.cast(x, DType.BOOL), x.dtype), axes, keepdim)
    powers = e.op("Pow", e.op("Abs", x), order, shape=x.dims)
    return e.op("Pow", reduce(e, "ReduceSum", powers, axes, keepdim), 1.0 / order)


@lowers("aten._weight_norm", "aten._weight_norm_interface")
def _lower_weight_norm(e: Emitter, a: Call) -> Tensor | Sequence[Tensor]:
    """`v * g/|v|`, the norm over all dims but one."""
    axes = [axis for axis in range(a.v.rank) if axis != a.dim % a.v.rank] if a.dim != -1 else list(range(a.v.rank))
    norm = reduce(e, "ReduceL2", a.v, axes, True)
    weight = e.op("Mul", a.v, e.op("Div", a.g, norm))
    return weight if len(a.types) == 1 else (weight, norm)


@lowers("aten.cumsum")
def _lower_cumsum(e: Emitter, a: Call) -> Tensor:
    x = e.cast(a.self, a.out.dtype)
    if x.rank == 0:
        return x
    return e.op("CumSum", x, e.scalar(normal_axis(a.dim, x.rank), DType.I64))


@lowers("aten.cumprod")
def _lower_cumprod(e: Emitter, a: Call) -> Tensor:
    """For each place the product of a row in which later elements count as 1; the standard has no running product."""
    x = e.cast(a.self, a.out.dtype)
    if x.rank == 0:
        return x
    axis = normal_axis(a.dim, x.rank)
    places = counting(e, x.dims[axis])
    rows, columns = (unsqueeze(e, places, axes) for axes in ([1], [0]))
    earlier = e.op("LessOrEqual", columns, rows, dtype=DType.BOOL)
    earlier = unsqueeze(e, earlier, list(range(2, x.rank - axis + 1)))
    factors = e.op("Where", earlier, unsqueeze(e, x, [axis]), e.scalar(1, x.dtype))
    factors.shape = (*x.dims[: axis + 1], *x.dims[axis:])
    return reduce(e, "ReduceProd", factors, [axis + 1])


@lowers("aten.diff")
def _lower_diff(e: Emitter, a: Call) -> Tensor:
    axis = normal_axis(a.dim, a.self.rank)
    parts = [t for t in (a.prepend, a.self, a.append) if t is not None]
    x = parts[0]
    if len(parts) > 1:
        size = sum((t.dims[axis] for t in parts[1:]), parts[0].dims[axis])
        x = e.op("Concat", *parts, axis=axis, shape=[*x.dims[:axis], size, *x.dims[axis + 1 :]])
    for _ in range(a.n):
        size = x.dims[axis]
        later = slice_(e, x, axis, 1, 2**63 - 1, size=size - 1)
        earlier = slice_(e, x, axis, 0, -1, size=size - 1)
        x = e.op("Xor" if x.dtype is DType.BOOL else "Sub", later, earlier, shape=later.dims)
    return x


@lowers("aten.cosine_similarity")
def _lower_cosine_similarity(e: Emitter, a: Call) -> Tensor:
    """`<x, y> / (max(|x|, eps) * max(|y|, eps))`."""
    rank = max(a.x1.rank, a.x2.rank)
    axis = normal_axis(a.dim, rank)
    pair = [unsqueeze(e, t, list(range(rank - t.rank))) for t in (a.x1, a.x2)]
    eps = e.scalar(float(a.eps), a.out.dtype)
    dot = e.op("ReduceSum", e.op("Mul", *pair), [axis], keepdims=0)
    norms = [e.op("Max", reduce(e, "ReduceL2", e.cast(t, a.out.dtype), [axis]), eps) for t in pair]
    return e.op("Div", dot, e.op("Mul", *norms))


@lowers("aten.cdist", "aten._cdist_forward")
def _lower_cdist(e: Emitter, a: Call) -> Tensor:
    """The norm of the difference of each row of the one to each row of the other."""
    left, right = unsqueeze(e, a.x1, [a.x1.rank - 1]), unsqueeze(e, a.x2, [a.x2.rank - 2])
    gap = e.op("Sub", left, right, shape=(*a.out.shape, a.x1.dims[-1]))
    return vector_norm(e, gap, float(a.p), [gap.rank - 1], False)


@lowers("aten.pairwise_distance")
def _lower_pairwise_distance(e: Emitter, a: Call) -> Tensor:
    gap = e.op("Add", e.op("Sub", a.x1, a.x2), float(a.eps))
    return vector_norm(e, gap, float(a.p), [gap.rank - 1], bool(a.keepdim))
