"""Samplers: Reductions, scans, softmax, sorting."""

from __future__ import annotations

from graphopt.ir import DType
from tests.ops.calls import FLOATS, Draw, Drawn, sampler


@sampler("sum.dim_IntList nansum mean.dim")
def sum_dims(d: Draw) -> Drawn:
    x = d.tensor()
    dtype = d.one((None, None, DType.F32, DType.I64))
    return [x], {"dim": d.one((None, d.axes(x.rank))), "keepdim": d.flag(), "dtype": dtype}


@sampler("sum prod mean")
def sum_all(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.one((None, None, DType.F32, DType.F64))}


@sampler("prod.dim_int")
def prod_dim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "keepdim": d.flag(), "dtype": d.one((None, DType.F32))}


@sampler("amax amin logsumexp any.dims all.dims var.dim std.dim var.correction std.correction linalg_vector_norm")
def reduce_dims(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axes(x.rank), "keepdim": d.flag()}


@sampler("var std")
def var_all(d: Draw) -> Drawn:
    return [d.tensor()], {"unbiased": d.flag()}


@sampler("max.dim min.dim any.dim all.dim")
def reduce_dim(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "keepdim": d.flag()}


@sampler("argmax argmin")
def argmax(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.one((None, d.axis(x.rank))), "keepdim": d.flag()}


@sampler("softmax.int log_softmax.int cumsum cumprod")
def softmax(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "dtype": d.one((None, None, DType.F32, DType.F64))}


@sampler("_softmax _log_softmax")
def core_softmax(d: Draw) -> Drawn:
    x = d.tensor(dtypes=FLOATS)
    return [x], {"dim": d.axis(x.rank), "half_to_float": False}


@sampler("_safe_softmax")
def safe_softmax(d: Draw) -> Drawn:
    x = d.tensor(dtypes=FLOATS)
    return [x], {"dim": d.axis(x.rank)}


@sampler("topk")
def topk(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"k": d.one((1, 2, 3)), "dim": d.axis(x.rank)}


@sampler("sort argsort")
def sort(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"dim": d.axis(x.rank), "descending": d.flag()}


@sampler("sort.stable")
def sort_stable(d: Draw) -> Drawn:
    x = d.tensor()
    return [x], {"stable": d.flag(), "dim": d.axis(x.rank)}


@sampler("glu")
def glu(d: Draw) -> Drawn:
    x = d.tensor(1, 3, FLOATS)
    dim = d.axis(x.rank)
    place = dim % x.rank
    return [x.with_shape((*x.shape[:place], x.shape[place] * d.one((1, 2)), *x.shape[place + 1 :]))], {"dim": dim}
