"""Conversions between element types, in chains: widening and back, through integers, through bools."""

from __future__ import annotations

from graphopt.ir import DType, Value
from graphopt.testing.builder import ANY, BOOL, F16, F32, F64, I32, I64, GraphBuilder
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import Domain
from graphopt.testing.samplers.table import register_sampler


def after_cast(known: Domain, source: DType, target: DType) -> Domain:
    """What is known of numbers in `known` once converted."""
    if target is BOOL:
        return TRUTH
    if target.is_floating:
        narrower = source.is_floating and target.bits < source.bits
        return known.rounded() if narrower or target is F16 else known
    return Domain(float(int(known.low)), float(int(known.high)), known.exact)


def cast(b: GraphBuilder, x: Value, target: DType) -> Value:
    """One conversion."""
    known = after_cast(b.domain(x), x.dtype, target)
    if b.op == "_to_copy":
        return b.emit("_to_copy", x, dtype=target, domain=known)
    return b.emit("to.dtype", x, target, domain=known)


def targets(b: GraphBuilder, x: Value) -> tuple[DType, ...]:
    """What `x` may be converted to: integers and bools jump, so they take exact numbers only."""
    if not b.domain(x).exact:
        return (F64, F32, F16)
    return (F32, F64, I64, I32, BOOL, F16)


@register_sampler("to.dtype", weight=3)
@register_sampler("_to_copy")
def chain(b: GraphBuilder) -> None:
    x = b.tensor((*ANY, F16))
    for _ in range(b.integer(1, 3)):
        x = cast(b, x, b.one(targets(b, x)))


@register_sampler("type_as")
def type_as(b: GraphBuilder) -> None:
    x, other = b.tensor(ANY, exact=True), b.tensor(ANY)
    b.emit("type_as", x, other, domain=after_cast(b.domain(x), x.dtype, other.dtype))
