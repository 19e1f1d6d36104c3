"""Arithmetic and comparisons of two tensors, or of a tensor and a number."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from graphopt.ir import Value
from graphopt.testing.builder import ANY, BOOL, FLOATS, INTEGERS, NUMBERS, GraphBuilder
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import Domain, symmetric
from graphopt.testing.samplers.table import register_sampler

PAIRS: dict[str, Callable[[float, float], float]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "rsub": lambda a, b: b - a,
    "maximum": max,
    "minimum": min,
    "fmax": max,
    "fmin": min,
    "max": max,
    "min": min,
    "subtract": operator.sub,
    "multiply": operator.mul,
}
NUMBERS_NEAR_RULES = (0, 1, 0.5, 2, -1, 0.0, -0.0, 1.0, 3, True)
"""The neutral and absorbing elements, as ints, floats and bools."""


def pair(b: GraphBuilder, dtypes: tuple = NUMBERS, *, exact: bool = False) -> tuple[Value, Value]:
    """Two values that broadcast; now and then twice the same, or of different dtypes."""
    x = b.tensor(dtypes, exact=exact)
    if b.chance(8):
        return x, x
    other = dtypes if b.chance(8) else (x.dtype,)
    y = b.match(x, dtypes=other, exact=exact)
    return (y, x) if b.flag() else (x, y)


def both_integer(*values: Value) -> bool:
    return all(not v.dtype.is_floating for v in values)


@register_sampler("subtract.Tensor multiply.Tensor rsub.Tensor")
@register_sampler("add.Tensor sub.Tensor mul.Tensor", weight=8)
def arithmetic(b: GraphBuilder) -> None:
    x, y = pair(b)
    name = b.op.partition(".")[0]
    alpha = b.one((1, 1, 1, 2)) if name in ("add", "sub", "rsub") else 1
    known = b.domain(y).map(lambda v: v * alpha)
    known = b.domain(x).combine(known, PAIRS[name], exact=both_integer(x, y))
    if name == "rsub":
        known = symmetric(2 * b.domain(x).magnitude + b.domain(y).magnitude, exact=known.exact)
    attributes: dict[str, Any] = {"alpha": alpha} if name in ("add", "sub", "rsub") else {}
    b.emit(b.op, x, y, domain=known, **attributes)


@register_sampler("rsub.Scalar")
def reverse_subtract(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    known = b.domain(x).map(lambda v: 1 - v, exact=both_integer(x))
    b.emit("rsub.Scalar", x, 1, domain=known)


@register_sampler("add.Scalar sub.Scalar mul.Scalar", weight=5)
def with_number(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    name = b.op.partition(".")[0]
    number = b.one(NUMBERS_NEAR_RULES[:-1] if name == "sub" else NUMBERS_NEAR_RULES)
    exact = (both_integer(x) and not isinstance(number, float)) or (name == "mul" and number in (0, 1, -1, 2))
    known = b.domain(x).map(lambda v: PAIRS[name](v, number))
    b.emit(b.op, x, number, domain=known if exact else known.rounded())


@register_sampler("maximum minimum", weight=2)
@register_sampler("fmax fmin max.other min.other")
def extremum(b: GraphBuilder) -> None:
    x, y = pair(b)
    b.emit(b.op, x, y, domain=b.domain(x).combine(b.domain(y), PAIRS[b.op.partition(".")[0]]))


@register_sampler("hypot logaddexp2")
def pair_of_floats(b: GraphBuilder) -> None:
    x, y = pair(b, FLOATS)
    bound = b.domain(x).magnitude + b.domain(y).magnitude + 1
    b.emit(b.op, x, y, domain=symmetric(bound))


@register_sampler("divide.Tensor true_divide.Tensor")
@register_sampler("div.Tensor", weight=4)
def divide(b: GraphBuilder) -> None:
    x, y = pair(b, FLOATS)
    y = b.positive(y)
    b.emit(b.op, x, y, domain=b.domain(x).combine(b.domain(y), operator.truediv, exact=False))


@register_sampler("div.Scalar", weight=2)
def divide_by_number(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    number = b.one((1, 2, 1.0, -2, 3.0))
    b.emit("div.Scalar", x, number, domain=b.domain(x).map(lambda v: v / number, exact=False))


@register_sampler("div.Tensor_mode div.Scalar_mode")
def divide_and_round(b: GraphBuilder) -> None:
    """By powers of two, so that the quotient is exact before it is rounded."""
    x = b.tensor(NUMBERS, exact=True)
    mode = b.one(("floor", "trunc"))
    known = symmetric(b.domain(x).magnitude + 1, exact=True)
    if b.op == "div.Scalar_mode":
        number = b.one((1, 2, -2)) if x.dtype.is_integer else b.one((1, 2, 0.5))
        b.emit(b.op, x, number, rounding_mode=mode, domain=symmetric(2 * known.high, exact=True))
    else:
        other = b.emit("full_like", x, 2, domain=Domain(2.0, 2.0))
        b.emit(b.op, x, other, rounding_mode=mode, domain=known)


@register_sampler("remainder.Scalar fmod.Scalar floor_divide")
def remainder(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS, exact=True)
    if b.op == "floor_divide":
        divisor = b.emit("full_like", x, 2, domain=Domain(2.0, 2.0))
        b.emit(b.op, x, divisor, domain=symmetric(b.domain(x).magnitude + 1, exact=True))
        return
    number = b.one((2, 1, 4))
    known = Domain(0.0, float(number)) if b.op == "remainder.Scalar" else symmetric(float(number), exact=True)
    b.emit(b.op, x, number, domain=known)


@register_sampler("remainder.Tensor fmod.Tensor")
def remainder_tensor(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS, exact=True)
    divisor = b.emit("full_like", x, b.one((2, 4)), domain=Domain(2.0, 4.0))
    b.emit(b.op, x, divisor, domain=symmetric(4.0, exact=True))


@register_sampler("pow.Tensor_Scalar", weight=3)
def power(b: GraphBuilder) -> None:
    exponent = b.one((2, 1, 0, 3, -1, 0.5, -0.5, 2.0, 1.0, 0.0, -2))
    x = b.within(b.tensor(), 8.0)
    if exponent < 0 or not float(exponent).is_integer():
        x = b.positive(x)
    b.emit("pow.Tensor_Scalar", x, exponent, domain=b.domain(x).map(lambda v: (v or 0.0) ** exponent, exact=False))


@register_sampler("pow.Tensor_Tensor pow.Scalar")
def power_of_tensor(b: GraphBuilder) -> None:
    x = b.within(b.tensor(), 2.0)
    if b.op == "pow.Scalar":
        b.emit(b.op, b.one((2, 0.5, 1)), x, domain=Domain(0.25, 4.0, False))
        return
    base = b.clamp(b.match(x), 0.25, 4.0)
    b.emit(b.op, base, x, domain=Domain(1 / 16, 16.0, False))


@register_sampler("atan2")
def atan2(b: GraphBuilder) -> None:
    y, x = pair(b, FLOATS)
    b.emit("atan2", y, b.positive(x), domain=symmetric(math.pi))


@register_sampler("logaddexp")
def logaddexp(b: GraphBuilder) -> None:
    x, y = pair(b, FLOATS)
    b.emit("logaddexp", x, y, domain=b.domain(x).combine(b.domain(y), lambda p, q: max(p, q) + 1, exact=False))


@register_sampler("copysign.Tensor")
def copysign(b: GraphBuilder) -> None:
    x, y = pair(b, FLOATS)
    b.emit("copysign.Tensor", x, b.positive(y), domain=symmetric(b.domain(x).magnitude, exact=b.domain(x).exact))


@register_sampler("greater.Tensor less_equal.Tensor not_equal.Tensor")
@register_sampler("eq.Tensor ne.Tensor lt.Tensor le.Tensor gt.Tensor ge.Tensor", weight=3)
def compare(b: GraphBuilder) -> None:
    x, y = pair(b, ANY, exact=True)
    b.emit(b.op, x, y, domain=TRUTH)


@register_sampler("less.Scalar greater_equal.Scalar")
@register_sampler("eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar", weight=2)
def compare_with_number(b: GraphBuilder) -> None:
    x = b.tensor(ANY, exact=True)
    b.emit(b.op, x, b.one((0, 1, 0.5, -1, True)), domain=TRUTH)


@register_sampler("logical_and logical_or logical_xor", weight=2)
def logical(b: GraphBuilder) -> None:
    x, y = pair(b, (BOOL, BOOL, BOOL, *NUMBERS), exact=True)
    b.emit(b.op, x, y, domain=TRUTH)


@register_sampler("bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor")
def bitwise(b: GraphBuilder) -> None:
    x, y = pair(b, (BOOL, *INTEGERS))
    known = TRUTH if both_bool(x, y) else symmetric(128.0, exact=True)
    b.emit(b.op, x, y, domain=known)


@register_sampler("bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar")
def bitwise_number(b: GraphBuilder) -> None:
    x = b.tensor((BOOL, *INTEGERS))
    number = b.one((True, False)) if x.dtype is BOOL else b.one((1, 0, 3))
    b.emit(b.op, x, number, domain=TRUTH if x.dtype is BOOL else symmetric(128.0, exact=True))


def both_bool(*values: Value) -> bool:
    return all(v.dtype is BOOL for v in values)


@register_sampler("lerp.Scalar lerp.Tensor")
def lerp(b: GraphBuilder) -> None:
    x = b.tensor()
    y = b.match(x)
    known = b.domain(x).union(b.domain(y))
    if b.op == "lerp.Scalar":
        b.emit(b.op, x, y, b.one((0.5, 0.0, 1.0)), domain=known.rounded())
    else:
        weight = b.emit("sigmoid", b.match(x, y), domain=Domain(0.0, 1.0, False))
        b.emit(b.op, x, y, weight, domain=known.rounded())


@register_sampler("addcmul addcdiv")
def add_product(b: GraphBuilder) -> None:
    x = b.tensor()
    y = b.match(x)
    z = b.match(x, y)
    value = b.one((1, 2, 0.5))
    if b.op == "addcdiv":
        z = b.positive(z)
    function = operator.mul if b.op == "addcmul" else operator.truediv
    known = b.domain(y).combine(b.domain(z), function).map(lambda v: v * value)
    b.emit(b.op, x, y, z, value=value, domain=b.domain(x).combine(known, operator.add, exact=False))
