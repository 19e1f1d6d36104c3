"""Tensors made from sizes and numbers."""

from __future__ import annotations

from graphopt.testing.builder import ANY, F32, F64, I64, GraphBuilder, high
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.table import register_sampler

NUMBERS = (0, 1, 0.5, -1, 2.0)


@register_sampler("full", weight=2)
def full(b: GraphBuilder) -> None:
    number = b.one(NUMBERS)
    dtype = b.one((None, F32, F64) if isinstance(number, float) else (None, F32, F64, I64))
    b.emit("full", b.shape((0, 3)), number, dtype=dtype, domain=Domain(float(number), float(number)))


@register_sampler("zeros ones")
def filled(b: GraphBuilder) -> None:
    number = 0.0 if b.op == "zeros" else 1.0
    b.emit(b.op, b.shape((0, 3)), dtype=b.one((None, F64, I64)), domain=Domain(number, number))


@register_sampler("zeros_like ones_like")
def filled_like(b: GraphBuilder) -> None:
    number = 0.0 if b.op == "zeros_like" else 1.0
    b.emit(b.op, b.tensor(ANY), dtype=b.one((None, F32)), domain=Domain(number, number))


@register_sampler("full_like")
def full_like(b: GraphBuilder) -> None:
    number = b.one((0, 1, 2))
    x = b.tensor((F32, F64, I64))
    b.emit("full_like", x, number, domain=Domain(float(number), float(number)))


@register_sampler("new_zeros new_ones")
def new_filled(b: GraphBuilder) -> None:
    number = 0.0 if b.op == "new_zeros" else 1.0
    b.emit(b.op, b.tensor(ANY), b.shape((0, 3)), domain=Domain(number, number))


@register_sampler("arange arange.start", weight=2)
def arange(b: GraphBuilder) -> None:
    size = b.dim()
    dtype = b.one((None, F32, F64))
    if b.op == "arange":
        b.emit("arange", size, dtype=dtype, domain=Domain(0.0, float(high(size))))
    else:
        start = b.integer(0, 1)
        b.emit("arange.start", start, size + start, dtype=dtype, domain=Domain(0.0, float(high(size) + 1)))


@register_sampler("scalar_tensor")
def scalar_tensor(b: GraphBuilder) -> None:
    number = b.one(NUMBERS)
    b.emit("scalar_tensor", number, dtype=b.one((F32, F64)), domain=Domain(float(number), float(number)))


@register_sampler("eye")
def eye(b: GraphBuilder) -> None:
    b.emit("eye", b.dim(), domain=Domain(0.0, 1.0))
