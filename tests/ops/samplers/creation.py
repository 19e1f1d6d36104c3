"""Samplers: Creation and casts."""

from __future__ import annotations

from graphopt.ir import DType, TensorType
from tests.ops.calls import ANY, Draw, Drawn, S, sampler


@sampler("zeros ones empty.memory_format rand randn")
def filled(d: Draw) -> Drawn:
    return [], {"size": d.shape(least=0), "dtype": d.one((None, DType.F64, DType.F32))}


@sampler("full")
def full(d: Draw) -> Drawn:
    return [], {"size": d.shape(), "fill_value": d.number(), "dtype": d.one((None, DType.F64, DType.I64))}


@sampler("scalar_tensor")
def scalar_tensor(d: Draw) -> Drawn:
    return [], {"s": d.number(), "dtype": d.one((None, DType.F64, DType.I64))}


@sampler("eye")
def eye(d: Draw) -> Drawn:
    return [], {"n": d.dim()}


@sampler("eye.m")
def eye_m(d: Draw) -> Drawn:
    return [], {"n": d.dim(), "m": d.dim()}


@sampler("linspace")
def linspace(d: Draw) -> Drawn:
    return [], {"start": d.number(), "end": d.one((3, 2.5)), "steps": d.integer(0, 5)}


@sampler("arange")
def arange(d: Draw) -> Drawn:
    return [], {"end": d.one((5, 2.5, 0, S, 2 * S + 1)), "dtype": d.one((None, DType.F32, DType.I32))}


@sampler("arange.start")
def arange_start(d: Draw) -> Drawn:
    return [], {"start": d.one((0, 1, 0.5, S)), "end": d.one((5, 7.5, 2 * S)), "dtype": d.one((None, DType.F32))}


@sampler("arange.start_step")
def arange_step(d: Draw) -> Drawn:
    start, end, step = d.one((0, 1, S)), d.one((9, 2 * S, 7.5)), d.one((1, 2, 0.5, 3))
    return [], {"start": start, "end": end, "step": step}


@sampler("full_like")
def full_like(d: Draw) -> Drawn:
    return [d.tensor()], {"fill_value": d.number(), "dtype": d.one((None, DType.F64))}


@sampler("new_zeros new_ones new_empty")
def new_filled(d: Draw) -> Drawn:
    return [d.tensor()], {"size": d.shape(least=0), "dtype": d.one((None, DType.F64))}


@sampler("new_full")
def new_full(d: Draw) -> Drawn:
    return [d.tensor()], {"size": d.shape(), "fill_value": d.number(), "dtype": d.one((None, DType.F64))}


@sampler("_to_copy to.dtype_layout")
def to_copy(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.one((None, *ANY))}


@sampler("to.dtype")
def to_dtype(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.dtype()}


@sampler("to.device")
def to_device(d: Draw) -> Drawn:
    return [d.tensor()], {"dtype": d.dtype(), "device": "cpu"}


@sampler("type_as to.other")
def type_as(d: Draw) -> Drawn:
    return [d.tensor(), d.tensor()], {}


@sampler("view.dtype")
def view_dtype(d: Draw) -> Drawn:
    return [d.tensor(1, 3)], {"dtype": d.dtype()}


@sampler("sym_size.int")
def sym_size(d: Draw) -> Drawn:
    x = d.tensor(1, 3)
    return [x], {"dim": d.axis(x.rank)}


@sampler("meshgrid")
def meshgrid(d: Draw) -> Drawn:
    dtype = d.dtype()
    return [TensorType(dtype, d.shape(0, 1)) for _ in range(d.integer(1, 3))], {}


@sampler("meshgrid.indexing")
def meshgrid_indexing(d: Draw) -> Drawn:
    return meshgrid(d)[0], {"indexing": d.one(("ij", "xy"))}
