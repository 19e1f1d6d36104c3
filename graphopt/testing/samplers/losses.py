"""Losses, which end many captured training and evaluation graphs."""

from __future__ import annotations

from graphopt.ir import TensorType
from graphopt.testing.builder import F32, FLOATS, I64, GraphBuilder
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.indexing import indices
from graphopt.testing.samplers.table import register_sampler


@register_sampler("mse_loss l1_loss smooth_l1_loss huber_loss")
def distance(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS, (1, 3), least=1, bound=8.0)
    y = b.like(TensorType(x.dtype, x.shape), bound=8.0)
    b.emit(b.op, x, y, b.integer(0, 1), domain=Domain(0.0, 256.0, False))


@register_sampler("cross_entropy_loss")
def cross_entropy(b: GraphBuilder) -> None:
    rows, classes = b.dim(), b.one((4, 5))
    x = b.like(TensorType(F32, (rows, classes)), bound=16.0)
    target = indices(b, classes, (rows,), (I64,))
    b.emit(b.op, x, target, None, b.integer(0, 1), domain=Domain(0.0, 64.0, False))


@register_sampler("cosine_similarity")
def cosine_similarity(b: GraphBuilder) -> None:
    x = b.positive(b.tensor((F32,), (1, 3), least=1))
    y = b.positive(b.like(TensorType(F32, x.shape)))
    b.emit(b.op, x, y, b.axis(len(x.shape)), domain=Domain(-1.001, 1.001, False))
