"""Functions of one tensor, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.testing.builder import ANY, BOOL, FLOATS, INTEGERS, NUMBERS, GraphBuilder
from graphopt.testing.domain import BOOL as TRUTH
from graphopt.testing.domain import UNIT, Domain, symmetric
from graphopt.testing.samplers.table import register_sampler

EXACT: dict[str, Callable[[float], float]] = {
    "relu": lambda v: max(v, 0.0),
    "neg": lambda v: -v,
    "abs": abs,
    "relu6": lambda v: min(max(v, 0.0), 6.0),
    "hardtanh": lambda v: min(max(v, -1.0), 1.0),
    "negative": lambda v: -v,
    "absolute": abs,
    "positive": lambda v: v,
}


@register_sampler("negative absolute positive")
@register_sampler("relu neg abs", weight=3)
def exact(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    b.emit(b.op, x, domain=b.domain(x).map(EXACT[b.op]))


@register_sampler("relu6 hardtanh")
def bounded(b: GraphBuilder) -> None:
    x = b.tensor()
    b.emit(b.op, x, domain=b.domain(x).map(EXACT[b.op]))


@register_sampler("clone alias detach contiguous")
@register_sampler("nan_to_num lift_fresh_copy resolve_conj")
def same(b: GraphBuilder) -> None:
    x = b.tensor(ANY)
    b.emit(b.op, x, domain=b.domain(x))


@register_sampler("dropout")
def dropout(b: GraphBuilder) -> None:
    x = b.tensor()
    b.emit("dropout", x, 0.5, False, domain=b.domain(x))


JUMPS: dict[str, Callable[[float], float]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
    "round": round,
    "sign": lambda v: (v > 0) - (v < 0),
    "sgn": lambda v: (v > 0) - (v < 0),
    "fix": math.trunc,
}


@register_sampler("fix sgn")
@register_sampler("floor ceil trunc round sign", weight=2)
def jump(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS if b.op != "round" else FLOATS, exact=True)
    b.emit(b.op, x, domain=b.domain(x).map(JUMPS[b.op]))


@register_sampler("frac")
def fraction(b: GraphBuilder) -> None:
    x = b.tensor(exact=True)
    b.emit("frac", x, domain=symmetric(1.0, exact=True))


@register_sampler("isposinf isneginf")
@register_sampler("isnan isinf isfinite logical_not")
def predicate(b: GraphBuilder) -> None:
    b.emit(b.op, b.tensor(ANY, exact=True), domain=TRUTH)


@register_sampler("signbit")
def signbit(b: GraphBuilder) -> None:
    b.emit("signbit", b.positive(b.tensor(exact=True)), domain=TRUTH)


@register_sampler("bitwise_not")
def bitwise_not(b: GraphBuilder) -> None:
    x = b.tensor((BOOL, *INTEGERS))
    b.emit("bitwise_not", x, domain=TRUTH if x.dtype is BOOL else b.domain(x).map(lambda v: -v - 1))


ANYWHERE: dict[str, Callable[[float], float]] = {
    "sigmoid": lambda v: 1 / (1 + math.exp(-v)),
    "tanh": math.tanh,
    "erf": math.erf,
    "atan": math.atan,
    "asinh": math.asinh,
    "softplus": lambda v: max(v, 0.0) + 0.7,
    "selu": lambda v: 1.0508 * v if v > 0 else -1.7581,
    "leaky_relu": lambda v: v if v > 0 else 0.01 * v,
    "hardsigmoid": lambda v: min(max(v / 6 + 0.5, 0.0), 1.0),
    "log_sigmoid": lambda v: -abs(v) - 0.7,
    "deg2rad": math.radians,
    "rad2deg": math.degrees,
    "square": lambda v: v * v,
    "erfc": math.erfc,
    "special_expit": lambda v: 1 / (1 + math.exp(-v)),
}


@register_sampler("sigmoid tanh erf atan asinh softplus selu leaky_relu hardsigmoid log_sigmoid square", weight=3)
@register_sampler("deg2rad rad2deg erfc special_expit")
def anywhere(b: GraphBuilder) -> None:
    x = b.tensor()
    b.emit(b.op, x, domain=b.domain(x).map(ANYWHERE[b.op], exact=False))


@register_sampler("silu mish hardswish", weight=2)
def swish(b: GraphBuilder) -> None:
    x = b.tensor()
    b.emit(b.op, x, domain=Domain(-0.5, max(b.domain(x).high, 0.0), False))


@register_sampler("gelu", weight=2)
def gelu(b: GraphBuilder) -> None:
    x = b.tensor()
    approximate = b.one(("none", "tanh"))
    b.emit("gelu", x, approximate=approximate, domain=Domain(-0.5, max(b.domain(x).high, 0.0), False))


@register_sampler("elu celu")
def elu(b: GraphBuilder) -> None:
    x = b.tensor()
    alpha = b.one((1.0, 0.5, 2.0))
    b.emit(b.op, x, alpha=alpha, domain=Domain(-2.0, max(b.domain(x).high, 0.0), False))


@register_sampler("sin cos")
def wave(b: GraphBuilder) -> None:
    b.emit(b.op, b.tensor(), domain=symmetric(1.0))


SMALL: dict[str, Callable[[float], float]] = {
    "exp": math.exp,
    "exp2": lambda v: 2**v,
    "expm1": math.expm1,
    "sinh": math.sinh,
    "cosh": math.cosh,
}


@register_sampler("exp exp2 expm1 sinh cosh", weight=2)
def growing(b: GraphBuilder) -> None:
    x = b.within(b.tensor(), 4.0)
    b.emit(b.op, x, domain=b.domain(x).map(SMALL[b.op], exact=False))


POSITIVE: dict[str, Callable[[float], float]] = {
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "rsqrt": lambda v: v**-0.5,
    "reciprocal": lambda v: 1 / v,
}


@register_sampler("sqrt rsqrt reciprocal log log2 log10 log1p", weight=3)
def positive(b: GraphBuilder) -> None:
    x = b.positive(b.tensor())
    b.emit(b.op, x, domain=b.domain(x).map(POSITIVE[b.op], exact=False))


INSIDE: dict[str, Callable[[float], float]] = {
    "asin": math.asin,
    "acos": math.acos,
    "atanh": math.atanh,
    "tan": math.tan,
}


@register_sampler("asin acos atanh tan")
def inside(b: GraphBuilder) -> None:
    x = b.within(b.tensor(), 0.75)
    b.emit(b.op, x, domain=b.domain(x).map(INSIDE[b.op], exact=False))


@register_sampler("acosh")
def acosh(b: GraphBuilder) -> None:
    x = b.clamp(b.tensor(), 1.5, 8.0)
    b.emit("acosh", x, domain=b.domain(x).map(math.acosh, exact=False))


@register_sampler("logit")
def logit(b: GraphBuilder) -> None:
    x = b.clamp(b.tensor(), 0.125, 0.875)
    b.emit("logit", x, eps=b.one((None, 0.25)), domain=symmetric(2.0))


@register_sampler("threshold")
def threshold(b: GraphBuilder) -> None:
    x = b.tensor(exact=True)
    b.emit("threshold", x, 0.5, 1, domain=b.domain(x).union(Domain(1.0, 1.0)))


@register_sampler("softshrink hardshrink")
def shrink(b: GraphBuilder) -> None:
    x = b.tensor(exact=True)
    b.emit(b.op, x, 0.5, domain=b.domain(x).union(Domain(0.0, 0.0, b.op == "hardshrink")))


BOUNDS: tuple[tuple[float | None, float | None], ...] = ((0, None), (0, 6), (-1, 1), (None, 1.5), (0.5, 0.5), (2, -2))


@register_sampler("clamp", weight=3)
def clamp(b: GraphBuilder) -> None:
    """Chains of clamps and rectifiers are where bounds get lost."""
    x = b.tensor()
    least, most = b.one(BOUNDS)
    known = b.domain(x)
    if least is not None:
        known = known.clamp(low=float(least))
    if most is not None:
        known = known.clamp(high=float(most))
    b.emit("clamp", x, min=least, max=most, domain=known)


@register_sampler("clamp_min clamp_max")
def clamp_one_side(b: GraphBuilder) -> None:
    x = b.tensor(NUMBERS)
    limit = b.one((0, 1, -1))
    known = b.domain(x)
    known = known.clamp(low=float(limit)) if b.op == "clamp_min" else known.clamp(high=float(limit))
    b.emit(b.op, x, limit, domain=known)


@register_sampler("clamp.Tensor")
def clamp_tensors(b: GraphBuilder) -> None:
    x = b.tensor()
    least = b.match(x)
    most = b.match(x, least)
    known = b.domain(x).union(b.domain(least), b.domain(most))
    drop = b.integer(0, 2)
    b.emit("clamp.Tensor", x, None if drop == 1 else least, None if drop == 2 else most, domain=known)


@register_sampler("_softmax _log_softmax")
@register_sampler("softmax.int log_softmax.int", weight=2)
def softmax(b: GraphBuilder) -> None:
    x = b.tensor(ranks=(1, 4), least=1)
    known = Domain(-2 * b.domain(x).magnitude - 8, 0.0, False) if "log" in b.op else UNIT
    more = (False,) if b.op.startswith("_") else ()
    b.emit(b.op, x, b.axis(len(x.shape)), *more, domain=known)
