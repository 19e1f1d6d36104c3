"""Choices between values: `where`, masks."""

from __future__ import annotations

from graphopt.ir import TensorType, Value
from graphopt.testing.builder import ANY, BOOL, FLOATS, NUMBERS, GraphBuilder, broadcasts
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.table import register_sampler


def mask_for(b: GraphBuilder, x: Value, *more: Value) -> Value:
    """A mask that broadcasts with `x` and more: one at hand, a comparison of `x`, or an input."""
    shapes = [v.shape for v in (x, *more)]
    found = b.find((BOOL,), where=lambda v: all(broadcasts(v.shape, s) for s in shapes), exact=True)
    if found is not None and b.flag():
        return found
    if b.domain(x).exact and b.flag():
        return b.emit("gt.Scalar", x, 0, domain=TRUTH)
    return b.leaf(TensorType(BOOL, b.broadcastable(x.shape)))


@register_sampler("where.self", weight=3)
def where(b: GraphBuilder) -> None:
    x = b.tensor(ANY)
    y = x if b.chance(10) else b.match(x)
    mask = mask_for(b, x, y)
    b.emit("where.self", mask, x, y, domain=b.domain(x).union(b.domain(y)))


@register_sampler("where.ScalarOther where.ScalarSelf")
def where_number(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    mask = mask_for(b, x)
    number = b.one((0, 1, -1))
    known = b.domain(x).union(Domain(float(number), float(number)))
    if b.op == "where.ScalarOther":
        b.emit(b.op, mask, x, number, domain=known)
    else:
        b.emit(b.op, mask, number, x, domain=known)


@register_sampler("masked_fill.Scalar", weight=2)
def masked_fill(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    mask = b.like(TensorType(BOOL, x.shape), exact=True)
    number = b.one((0, 1, -8))
    b.emit("masked_fill.Scalar", x, mask, number, domain=b.domain(x).union(Domain(float(number), float(number))))


@register_sampler("masked_fill.Tensor")
def masked_fill_tensor(b: GraphBuilder) -> None:
    x = b.tensor(FLOATS)
    mask = b.like(TensorType(BOOL, x.shape), exact=True)
    value = b.like(TensorType(x.dtype, ()))
    b.emit("masked_fill.Tensor", x, mask, value, domain=b.domain(x).union(b.domain(value)))


@register_sampler("prelu")
def prelu(b: GraphBuilder) -> None:
    x = b.tensor(ranks=(2, 4))
    channels = x.shape[1] if b.flag() else 1
    slope = b.weight(x.dtype, channels)
    bound = b.domain(x).magnitude * 2
    b.emit("prelu", x, slope, domain=Domain(-bound, bound, False))
