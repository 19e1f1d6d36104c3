"""Samplers: Operators that look up by index."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from tests.ops.calls import FEW, FLOATS, Draw, Drawn, sampler


@sampler("embedding")
def embedding(d: Draw) -> Drawn:
    table = TensorType(d.dtype(FLOATS), (d.dim(), d.dim()))
    return [table, d.tensor(0, 3, (DType.I64, DType.I32))], {}


@sampler("gather")
def gather(d: Draw) -> Drawn:
    x = d.tensor(0, 3)
    dim = d.axis(x.rank)
    shape = list(x.shape)
    if shape:
        shape[dim] = d.dim()
    return [x, TensorType(DType.I64, tuple(shape))], {"dim": dim}


@sampler("index_select")
def index_select(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x, TensorType(d.one((DType.I64, DType.I32)), d.shape(0, 1))], {"dim": d.axis(x.rank)}


@sampler("index.Tensor _unsafe_index.Tensor")
def index(d: Draw) -> Drawn:
    x = d.tensor(1, 4)
    shape = d.shape(0, 2)
    found = [
        None if d.integer(0, 2) == 0 else TensorType(DType.I64, d.broadcastable(shape))
        for _ in range(d.integer(1, x.rank))
    ]
    if found[-1] is None:
        found[-1] = TensorType(DType.I64, shape)
    return [x, *found], {}


@sampler("index_put")
def index_put(d: Draw) -> Drawn:
    (x, *found), _ = index(d)
    assert x is not None
    return [x, *found, TensorType(x.dtype, ())], {}


@sampler("scatter.value")
def scatter_value(d: Draw) -> Drawn:
    operands, attributes = gather(d)
    return operands, {**attributes, "value": 1}


@sampler("scatter.src scatter_add")
def scatter(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x, TensorType(DType.I64, x.shape), x], {"dim": d.axis(x.rank)}


@sampler("scatter.reduce")
def scatter_reduce(d: Draw) -> Drawn:
    operands, attributes = scatter(d)
    return operands, {**attributes, "reduce": "add"}


@sampler("scatter.value_reduce")
def scatter_value_reduce(d: Draw) -> Drawn:
    operands, attributes = scatter_value(d)
    return operands, {**attributes, "reduce": "multiply"}


@sampler("one_hot")
def one_hot(d: Draw) -> Drawn:
    return [d.tensor(0, 3, (DType.I64,))], {"num_classes": d.integer(1, 5)}


@sampler("slice_scatter")
def slice_scatter(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dim = d.integer(0, x.rank - 1)
    source = x.with_shape((*x.shape[:dim], 1, *x.shape[dim + 1 :]))
    return [x, source], {"dim": dim, "start": 0, "end": 1}


@sampler("select_scatter")
def select_scatter(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    dim = d.integer(0, x.rank - 1)
    return [x, x.with_shape((*x.shape[:dim], *x.shape[dim + 1 :]))], {"dim": dim, "index": 0}


@sampler("grid_sampler grid_sampler_2d grid_sampler_3d")
def grid_sampler(d: Draw) -> Drawn:
    rank = d.one((2, 3)) if d.op == "grid_sampler" else int(d.op[-2])
    batch, dtype = d.dim(), d.dtype(FEW)
    x = TensorType(dtype, (batch, d.dim(), *(d.dim() for _ in range(rank))))
    grid = TensorType(dtype, (batch, *(d.dim() for _ in range(rank)), rank))
    modes = {"interpolation_mode": d.integer(0, 2), "padding_mode": d.integer(0, 2)}
    return [x, grid], {**modes, "align_corners": d.flag()}
