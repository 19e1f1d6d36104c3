"""Raise activation functions that are written out to the operators that compute them at once.

    x · ½ (1 + erf(x / √2)) → gelu(x)                    x · ½ (1 + tanh(√(2/π) (x + 0.044715 x³))) → gelu(x, tanh)
    x · σ(x), x / (1 + e⁻ˣ) → silu(x)                    1 / (1 + e⁻ˣ) → σ(x)
    clamp(x + 3, 0, 6) / 6 → hardsigmoid(x)              x · hardsigmoid(x) → hardswish(x)
    log(1 + eˣ) → softplus(x)                            x · tanh(softplus(x)) → mish(x)
    max(x, αx), x > 0 ? x : αx → leaky_relu(x, α)        log σ(x) → logsigmoid(x)

Products associate and commute in whatever way an exporter writes them. √2, ⅙ and the like may be rounded, as they are
wherever a model was stored; the operator has them exactly. One pass over memory takes the place of up to eight.
Reassociating.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.passes.rules.conditions import is_floating
from graphopt.passes.support.lossless import LosslessRules
from graphopt.passes.support.numbers import number_of
from graphopt.rewrite import Algebra, Contract, Match, Rewriter, Rule, aten, either, rounded, var
from graphopt.rewrite.pattern import OpPattern, Pattern
from graphopt.rewrite.rule import Replacement

x = var("x")

_CUBIC = 0.044715
_ROOT = math.sqrt(2 / math.pi)


def times_half_x(cumulative: Pattern) -> tuple[OpPattern, ...]:
    """x · ½ · y, in any order."""
    return (
        aten.mul(aten.mul(x, 0.5).once, cumulative),
        aten.mul(aten.mul(x, cumulative).once, 0.5),
        aten.mul(x, aten.mul(cumulative, 0.5).once),
    )


def one_plus(value: Pattern) -> OpPattern:
    """1 + y, for one use."""
    return aten.add(value, 1.0).once


_SQUARE = either(aten.mul(x, x), aten.pow(x, 2), aten.square(x))
_CUBE = either(aten.mul(_SQUARE, x), aten.pow(x, 3))
_ERF = aten.erf(either(aten.div(x, rounded(math.sqrt(2))), aten.mul(x, rounded(math.sqrt(0.5))))).once


def _cubic(scale: float) -> Pattern:
    """scale · (x + 0.044715 x³), also as scale · x (1 + 0.044715 x²) and x (scale + (0.044715 scale) x²)."""
    scaled_square = either(aten.mul(_SQUARE, rounded(_CUBIC)), aten.mul(aten.mul(x, rounded(_CUBIC)), x))
    scaled_cube = either(aten.mul(_CUBE, rounded(_CUBIC)), aten.mul(scaled_square, x))
    return either(
        aten.mul(aten.add(scaled_cube, x), rounded(scale)),
        aten.mul(aten.mul(x, rounded(scale)), aten.add(scaled_square, 1.0)),
        aten.mul(aten.mul(x, aten.add(scaled_square, 1.0)), rounded(scale)),
        aten.mul(x, aten.add(aten.mul(_SQUARE, rounded(_CUBIC * scale)), rounded(scale))),
    )


class _Raise(Rule):
    contract = Contract.REASSOCIATING

    def guard(self, match: Match) -> bool:
        """Floats only."""
        return is_floating(match["x"])


class RaiseGelu(_Raise):
    """x · ½ (1 + erf(x / √2)) → gelu(x)."""

    name = "raise-gelu"
    pattern = (
        *times_half_x(one_plus(_ERF)),
        aten.mul(x, aten.add(aten.mul(_ERF, 0.5), 0.5).once),
    )

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The exact form."""
        return rewriter.create("aten.gelu", match["x"]).result


class RaiseGeluTanh(_Raise):
    """x · ½ (1 + tanh(√(2/π) (x + 0.044715 x³))) → gelu(x, tanh); ½ (1 + tanh y) may be written σ(2y)."""

    name = "raise-gelu-tanh"
    pattern = (
        *times_half_x(one_plus(aten.tanh(_cubic(_ROOT)).once)),
        aten.mul(x, aten.add(aten.mul(aten.tanh(_cubic(_ROOT)).once, 0.5), 0.5).once),
        aten.mul(x, aten.sigmoid(_cubic(2 * _ROOT)).once),
    )

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The approximation."""
        return rewriter.create("aten.gelu", match["x"], approximate="tanh").result


def _all_floating(match: Match) -> bool:
    return is_floating(match["x"])


_LOGISTIC_BELOW = aten.add(aten.exp(aten.neg(x)), 1.0)
_SIX = either(
    *(f(aten.add(x, 3.0), *limits) for f, limits in ((aten.clamp, (0, 6)), (aten.hardtanh, (0, 6)), (aten.relu6, ()))),
)
_ONE = aten.add(aten.mul(x, rounded(1 / 6)), 0.5)
_SOFTPLUS = (aten.log1p(aten.exp(x)), aten.log(aten.add(aten.exp(x), 1.0)))


def _line(title: str, left: OpPattern, right: Pattern) -> Algebra:
    return Algebra(title, left, right, Contract.REASSOCIATING, None, _all_floating)


TABLE: tuple[Algebra, ...] = (
    _line("raise-sigmoid", aten.reciprocal(_LOGISTIC_BELOW), aten.sigmoid(x)),
    _line("raise-sigmoid", aten.div.Tensor(1.0, _LOGISTIC_BELOW), aten.sigmoid(x)),
    _line("raise-silu", aten.mul.Tensor(x, aten.sigmoid(x)), aten.silu(x)),
    _line("raise-silu", aten.div.Tensor(x, _LOGISTIC_BELOW), aten.silu(x)),
    _line("raise-hardswish", aten.mul.Tensor(x, aten.hardsigmoid(x)), aten.hardswish(x)),
    _line("raise-hardswish", aten.div(aten.mul(x, _SIX).once, 6.0), aten.hardswish(x)),
    _line("raise-hardswish", aten.mul(aten.mul(x, _SIX).once, rounded(1 / 6)), aten.hardswish(x)),
    _line("raise-hardsigmoid", aten.div(_SIX, 6.0), aten.hardsigmoid(x)),
    _line("raise-hardsigmoid", aten.mul(_SIX, rounded(1 / 6)), aten.hardsigmoid(x)),
    _line("raise-hardsigmoid", aten.clamp(_ONE, 0, 1), aten.hardsigmoid(x)),
    _line("raise-hardsigmoid", aten.hardtanh(_ONE, 0, 1), aten.hardsigmoid(x)),
    *(_line("raise-softplus", pattern, aten.softplus(x)) for pattern in _SOFTPLUS),
    _line("raise-mish", aten.mul.Tensor(x, aten.tanh(aten.softplus(x))), aten.mish(x)),
    _line("raise-logsigmoid", aten.log(aten.sigmoid(x)), aten.log_sigmoid(x)),
)


class RaiseLeakyRelu(_Raise):
    """max(x, αx) for 0 < α < 1, and x > 0 ? x : αx for any α → leaky_relu(x, α)."""

    name = "raise-leaky-relu"
    pattern = (
        aten.maximum(x, aten.mul(x, var("slope")).once),
        aten.where.self(aten.gt(x, 0.0).once, x, aten.mul(x, var("slope")).once),
        aten.where.self(aten.ge(x, 0.0).once, x, aten.mul(x, var("slope")).once),
        aten.where.self(aten.lt(x, 0.0).once, aten.mul(x, var("slope")).once, x),
        aten.where.self(aten.le(x, 0.0).once, aten.mul(x, var("slope")).once, x),
    )

    def guard(self, match: Match) -> bool:
        """The slope is a number; a maximum needs one below 1."""
        slope = number_of(match["slope"], match.surroundings)
        if not super().guard(match) or slope is None:
            return False
        return match.root.op.base != "aten.maximum" or 0 < slope < 1

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The slope is an attribute."""
        return rewriter.create("aten.leaky_relu", match["x"], number_of(match["slope"], match.surroundings)).result


RULES: tuple[Rule, ...] = (RaiseGelu(), RaiseGeluTanh(), *TABLE, RaiseLeakyRelu())


@dataclass(frozen=True)
class RaiseActivations(LosslessRules):
    """Make activation functions of their parts."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """GELU before σ, which is a part of one of its forms."""
        return RULES
