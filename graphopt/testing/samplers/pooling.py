"""Pooling and resampling."""

from __future__ import annotations

from graphopt.ir import Value
from graphopt.ir.dims import Dim
from graphopt.testing.builder import F32, GraphBuilder
from graphopt.testing.domain import Domain, symmetric
from graphopt.testing.samplers.table import register_sampler


def picture(b: GraphBuilder, spatial: int, least: int = 2) -> Value:
    """A tensor to pool over its last dims, which are at least `least`."""
    rank = spatial + 2

    def fresh() -> list[Dim]:
        return [b.dim(), b.dim(), *(b.dim(least) for _ in range(spatial))]

    def fits(v: Value) -> bool:
        return all(b.at_least(d, 1) for d in v.shape) and all(b.at_least(d, least) for d in v.shape[2:])

    return b.tensor((F32,), (rank, rank), fits, make=fresh)


@register_sampler("max_pool2d max_pool1d", weight=2)
def max_pool(b: GraphBuilder) -> None:
    n = int(b.op[-2])
    x = picture(b, n)
    kernel = b.integer(1, 2)
    padding = b.integer(0, kernel // 2)
    b.emit(b.op, x, (kernel,) * n, (b.integer(1, 2),) * n, (padding,) * n, (1,) * n, b.flag(), domain=b.domain(x))


@register_sampler("max_pool2d_with_indices")
def max_pool_with_indices(b: GraphBuilder) -> None:
    """Which of two equal elements is meant is chance, so the indices go nowhere."""
    x = picture(b, 2)
    _, indices = b.emit(b.op, x, (2, 2), (2, 2), domain=[b.domain(x), Domain(0.0, 4096.0)])
    b.drop(indices)


@register_sampler("avg_pool2d avg_pool1d", weight=2)
def average_pool(b: GraphBuilder) -> None:
    n = int(b.op[-2])
    x = picture(b, n)
    kernel = b.integer(1, 2)
    padding = b.integer(0, kernel // 2)
    known = b.domain(x).union(Domain(0.0, 0.0)).rounded()
    b.emit(b.op, x, (kernel,) * n, (b.integer(1, 2),) * n, (padding,) * n, b.flag(), b.flag(), domain=known)


@register_sampler("adaptive_avg_pool2d adaptive_avg_pool1d", weight=2)
def adaptive_pool(b: GraphBuilder) -> None:
    n = int(b.op[-2])
    x = picture(b, n)
    static = all(isinstance(d, int) for d in x.shape[2:])
    size = b.one((1, 2, 3)) if static else 1
    b.emit(b.op, x, (size,) * n, domain=b.domain(x).rounded())


@register_sampler("upsample_nearest2d.vec upsample_bilinear2d.vec upsample_bicubic2d.vec")
def upsample(b: GraphBuilder) -> None:
    """The cubic overshoots."""
    x = picture(b, 2)
    if "bicubic" in b.op:
        b.emit(b.op, x, None, b.flag(), (2.0, 2.0), domain=symmetric(4 * b.domain(x).magnitude))
        return
    arguments = (b.flag(),) if "bilinear" in b.op else ()
    b.emit(b.op, x, None, *arguments, (2.0, 2.0), domain=b.domain(x).rounded())
