"""Reductions over all dims, some, or one; scans, sorting."""

from __future__ import annotations

from typing import Any

from graphopt.ir import Value
from graphopt.ir.dims import product
from graphopt.testing.builder import ANY, BOOL, F32, F64, FLOATS, NUMBERS, GraphBuilder, high
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.table import register_sampler


def reduced(x: Value, dims: tuple[int, ...] | None) -> int:
    """How many elements at most go into one."""
    axes = dims or range(len(x.shape))
    return high(product([x.shape[a] for a in axes]))


def sum_domain(b: GraphBuilder, x: Value, count: int) -> Domain:
    known = b.domain(x).scaled(max(count, 1))
    return Domain(known.low, known.high, not x.dtype.is_floating and b.domain(x).exact)


def dims_of(b: GraphBuilder, x: Value) -> tuple[int, ...]:
    """At least one dim where there is one."""
    axes = b.axes(len(x.shape))
    return axes or ((0,) if x.shape else ())


@register_sampler("sum.dim_IntList", weight=3)
def sum_dims(b: GraphBuilder) -> None:
    x = b.tensor(ANY, bound=16)
    dims = b.one((dims_of(b, x), None))
    b.emit("sum.dim_IntList", x, dims, b.flag(), domain=sum_domain(b, x, reduced(x, dims)))


@register_sampler("mean.dim", weight=3)
def mean_dims(b: GraphBuilder) -> None:
    x = b.tensor(least=1)
    b.emit("mean.dim", x, dims_of(b, x), b.flag(), domain=b.domain(x).rounded())


@register_sampler("sum mean prod")
def over_all(b: GraphBuilder) -> None:
    x = b.tensor(least=1, bound=8)
    if b.op == "prod":
        x = b.within(x, 1.0)
        b.emit("prod", x, domain=Domain(-1.0, 1.0, False))
    else:
        b.emit(b.op, x, domain=sum_domain(b, x, reduced(x, None)) if b.op == "sum" else b.domain(x).rounded())


@register_sampler("prod.dim_int")
def product_of_dim(b: GraphBuilder) -> None:
    x = b.within(b.tensor(FLOATS), 1.0)
    b.emit("prod.dim_int", x, b.axis(len(x.shape)), b.flag(), domain=Domain(-1.0, 1.0, False))


@register_sampler("aminmax")
def both_extremes(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS, least=1)
    b.emit("aminmax", x, dim=b.axis(len(x.shape)), keepdim=b.flag(), domain=b.domain(x))


@register_sampler("count_nonzero.dim_IntList count_nonzero")
def count_nonzero(b: GraphBuilder) -> None:
    x = b.tensor(ANY, exact=True)
    dims = (dims_of(b, x),) if b.op.endswith("IntList") else ()
    b.emit(b.op, x, *dims, domain=Domain(0.0, float(reduced(x, None))))


@register_sampler("amax amin", weight=2)
def extreme(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS, least=1)
    b.emit(b.op, x, dims_of(b, x), b.flag(), domain=b.domain(x))


@register_sampler("max min")
def extreme_over_all(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS, least=1)
    b.emit(b.op, x, domain=b.domain(x))


def distinct(b: GraphBuilder, x: Value) -> tuple[Value, int]:
    """A tensor without equal elements along a dim, and the dim. Which of two equals comes first is chance."""
    axis = b.integer(0, max(len(x.shape) - 1, 0))
    if not x.shape:
        return x, 0
    size = high(x.shape[axis])
    steps = b.emit("arange", x.shape[axis], dtype=F64, domain=Domain(0.0, float(size)))
    if axis % len(x.shape) != len(x.shape) - 1:
        steps = b.emit("reshape", steps, (-1, *(1,) * (len(x.shape) - 1 - axis)), domain=b.domain(steps))
    scaled = b.emit("mul.Scalar", steps, 256, domain=Domain(0.0, 256.0 * size))
    wide = b.emit("to.dtype", x, F64, domain=b.domain(x))
    return b.emit("sub.Tensor", wide, scaled, domain=Domain(-300.0 * size - 300, 300.0)), axis


@register_sampler("max.dim min.dim", weight=2)
@register_sampler("argmax argmin", weight=2)
def arg_extreme(b: GraphBuilder) -> None:
    x, axis = distinct(b, b.tensor(FLOATS, least=1, exact=True))
    index = Domain(0.0, float(high(x.shape[axis]) - 1 if x.shape else 0))
    keepdim = b.flag()
    if b.op.startswith("arg"):
        b.emit(b.op, x, axis, keepdim, domain=index)
    else:
        b.emit(b.op, x, axis, keepdim, domain=[b.domain(x), index])


@register_sampler("sort topk argsort sort.stable")
def ordered(b: GraphBuilder) -> None:
    x, axis = distinct(b, b.tensor(FLOATS, (1, 3), least=1, exact=True))
    index = Domain(0.0, float(high(x.shape[axis]) - 1))
    if b.op == "argsort":
        b.emit("argsort", x, axis, b.flag(), domain=index)
    elif b.op == "sort.stable":
        b.emit("sort.stable", x, stable=b.flag(), dim=axis, descending=b.flag(), domain=[b.domain(x), index])
    elif b.op == "sort":
        b.emit("sort", x, axis, b.flag(), domain=[b.domain(x), index])
    else:
        b.emit("topk", x, 1, axis, b.flag(), domain=[b.domain(x), index])


@register_sampler("var_mean.correction")
def spread_and_mean(b: GraphBuilder) -> None:
    x = b.tensor(least=1)
    known = Domain(0.0, b.domain(x).magnitude ** 2, False)
    domains = [known, b.domain(x).rounded()]
    b.emit("var_mean.correction", x, dims_of(b, x), correction=0, keepdim=b.flag(), domain=domains)


@register_sampler("var.correction std.correction")
def spread(b: GraphBuilder) -> None:
    """With correction 0, since a dim may be 1; the root is taken away from zero."""
    x = b.tensor(least=1)
    known = Domain(0.0, b.domain(x).magnitude ** 2, False)
    dims, keepdim = dims_of(b, x), b.flag()
    if b.op == "var.correction":
        b.emit(b.op, x, dims, correction=0, keepdim=keepdim, domain=known)
        return
    y = b.emit("stack", [x, b.emit("add.Scalar", x, 4.0, domain=shifted(b, x))], 0, domain=shifted(b, x))
    b.emit(b.op, y, (0,), correction=b.integer(0, 1), keepdim=keepdim, domain=Domain(1.0, 8.0, False))


def shifted(b: GraphBuilder, x: Value) -> Domain:
    known = b.domain(x)
    return Domain(known.low, known.high + 4, False)


@register_sampler("logsumexp")
def logsumexp(b: GraphBuilder) -> None:
    x = b.tensor(least=1)
    dims = dims_of(b, x)
    known = b.domain(x)
    b.emit("logsumexp", x, dims, b.flag(), domain=Domain(known.low, known.high + 8, False))


@register_sampler("linalg_vector_norm norm.ScalarOpt_dim")
def norm(b: GraphBuilder) -> None:
    x = b.tensor(least=1, bound=16)
    dims = dims_of(b, x)
    known = Domain(0.0, b.domain(x).magnitude * reduced(x, dims), False)
    if b.op != "linalg_vector_norm":
        b.emit(b.op, x, b.one((2, 1)), dims, b.flag(), domain=known)
        return
    b.emit("linalg_vector_norm", x, b.one((2, 1)), dims, b.flag(), domain=known)


@register_sampler("any.dim all.dim any.dims all.dims")
@register_sampler("any all")
def truth(b: GraphBuilder) -> None:
    x = b.tensor((BOOL, BOOL, *NUMBERS), exact=True)
    dims = dims_of(b, x) if b.op.endswith("dims") else b.axis(len(x.shape))
    arguments: tuple[Any, ...] = (dims, b.flag()) if "dim" in b.op else ()
    b.emit(b.op, x, *arguments, domain=TRUTH)


@register_sampler("cumsum", weight=2)
def cumsum(b: GraphBuilder) -> None:
    x = b.tensor(ANY, bound=16)
    axis = b.axis(len(x.shape))
    b.emit("cumsum", x, axis, domain=sum_domain(b, x, reduced(x, (axis,) if x.shape else None)))


@register_sampler("cumprod")
def cumprod(b: GraphBuilder) -> None:
    x = b.within(b.tensor((F32,), (1, 3)), 1.0)
    b.emit("cumprod", x, b.axis(len(x.shape)), domain=Domain(-1.0, 1.0, False))


@register_sampler("glu")
def glu(b: GraphBuilder) -> None:
    x = b.tensor(ranks=(1, 3))
    axis = b.integer(0, len(x.shape) - 1)
    both = b.emit("cat", [x, x], axis, domain=b.domain(x))
    b.emit("glu", both, axis, domain=b.domain(x).union(Domain(0.0, 0.0)).rounded())
