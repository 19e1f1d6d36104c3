"""Normalizations."""

from __future__ import annotations

import math

from graphopt.ir import ConstantKind, TensorType, Value
from graphopt.ir.dims import Dim
from graphopt.testing.builder import F32, FLOATS, GraphBuilder, high
from graphopt.testing.domain import Domain, symmetric
from graphopt.testing.samplers.table import register_sampler

EPSILON = 1e-3
"""Large, so that a variance near zero does not blow rounding up."""


def normalize_batch(b: GraphBuilder, x: Value) -> Value:
    """A batch norm by running statistics, affine or not."""
    channels, dtype = x.shape[1], x.dtype
    mean = b.stored(TensorType(dtype, (channels,)), symmetric(1.0, exact=True), kind=ConstantKind.BUFFER)
    variance = b.stored(TensorType(dtype, (channels,)), Domain(0.5, 2.0), kind=ConstantKind.BUFFER)
    weight = None if b.chance(4) else b.weight(dtype, channels)
    bias = None if b.chance(4) else b.weight(dtype, channels)
    bound = (b.domain(x).magnitude + 1) * math.sqrt(2) * 1.01 + 1
    return b.emit("batch_norm", x, weight, bias, mean, variance, False, 0.1, EPSILON, True, domain=symmetric(bound))


def image_like(b: GraphBuilder, ranks: tuple[int, int], channels: tuple[int, ...]) -> Value:
    """A tensor with a known number of channels, among those given."""
    return b.tensor(
        FLOATS,
        ranks,
        lambda v: isinstance(v.shape[1], int) and v.shape[1] in channels,
        make=lambda: [b.dim(), b.one(channels), *b.shape((ranks[0] - 2, ranks[1] - 2), least=1)],
        least=1,
    )


@register_sampler("batch_norm", weight=4)
def batch_norm(b: GraphBuilder) -> None:
    normalize_batch(b, image_like(b, (2, 4), (1, 2, 3, 4, 5)))


def affine(b: GraphBuilder, x: Value, *shape: Dim) -> Value | None:
    return b.weight(x.dtype, *shape) if b.flag() and all(isinstance(d, int) for d in shape) else None


def normalized(x: Value, count: Dim) -> Domain:
    """Each element is at most the root of the count, times and plus at most one."""
    return symmetric(math.sqrt(max(high(count), 1)) * 1.01 + 1)


@register_sampler("layer_norm", weight=3)
@register_sampler("rms_norm")
def layer_norm(b: GraphBuilder) -> None:
    x = b.tensor(
        FLOATS, (1, 4), lambda v: isinstance(v.shape[-1], int), make=lambda: [*b.shape((0, 2), least=1), 4], least=1
    )
    size = x.shape[-1]
    count = 1 if b.op == "rms_norm" else 2
    vectors = [affine(b, x, size) for _ in range(count)]
    b.emit(b.op, x, (size,), *vectors, eps=EPSILON, domain=normalized(x, size))


@register_sampler("group_norm", weight=2)
def group_norm(b: GraphBuilder) -> None:
    x = image_like(b, (3, 4), (4, 2))
    channels = x.shape[1]
    b.emit(
        "group_norm", x, b.one((1, 2)), affine(b, x, channels), affine(b, x, channels), EPSILON, domain=symmetric(20.0)
    )


@register_sampler("instance_norm")
def instance_norm(b: GraphBuilder) -> None:
    x = b.tensor(
        (F32,),
        (4, 4),
        lambda v: isinstance(v.shape[1], int),
        make=lambda: [b.dim(), b.one((1, 2)), b.dim(2), b.dim(2)],
        least=2,
    )
    channels = x.shape[1]
    vectors = affine(b, x, channels), affine(b, x, channels)
    b.emit("instance_norm", x, *vectors, None, None, True, 0.1, EPSILON, True, domain=symmetric(20.0))
