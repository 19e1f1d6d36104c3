"""Samplers: Fourier transforms and complex numbers."""

from __future__ import annotations

from graphopt.ir import DType
from tests.ops.calls import Draw, Drawn, sampler

MOSTLY_REAL = (DType.F32, DType.F64, DType.F32, DType.C64, DType.I64)


@sampler("fft_fft fft_ifft fft_rfft fft_irfft")
def transform(d: Draw) -> Drawn:
    x = d.tensor(low=1, dtypes=MOSTLY_REAL)
    norm = d.one((None, None, "ortho", "forward", "backward"))
    return [x], {"n": d.optional(d.integer(1, 8)), "dim": d.axis(x.rank), "norm": norm}


@sampler("complex")
def complex_(d: Draw) -> Drawn:
    x = d.tensor(dtypes=(DType.F32, DType.F64))
    return [x, x], {}


@sampler("view_as_real")
def view_as_real(d: Draw) -> Drawn:
    return [d.tensor(dtypes=(DType.C64, DType.C128, DType.C64, DType.F32))], {}


@sampler("view_as_complex")
def view_as_complex(d: Draw) -> Drawn:
    x = d.tensor(high=3, dtypes=(DType.F32, DType.F64, DType.F32, DType.I64))
    return [x.with_shape((*x.shape, d.one((2, 2, 2, 3))))], {}
