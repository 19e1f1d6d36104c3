"""Identities of addition, multiplication and negation.

    x + 0 → x    x · 1 → x    x − (−y) → x + y    −(−x) → x

IEEE 754 decides the contracts. x − 0, x · 1 and x + (−0) give back every bit of x. x + 0 turns −0 into 0, so
dropping it is exact up to the sign of zero. A negation that moves past an operation moves the sign of a NaN and of
an exact zero. (Quieting of signalling NaNs, which no operator of a model makes, is not counted.)
"""

from __future__ import annotations

from graphopt.passes.rules.conditions import is_finite
from graphopt.passes.support.rebuild import filled
from graphopt.rewrite import Algebra, Contract, Match, Rewriter, Rule, aten, var
from graphopt.rewrite.rule import Replacement

BITWISE, VALUE_EXACT = Contract.BITWISE, Contract.VALUE_EXACT
x, y, c = var("x"), var("y"), var("c")


def _number(match: Match) -> bool:
    return isinstance(match["c"], int | float) and not isinstance(match["c"], bool)


IDENTITIES = (
    Algebra("add-zero", aten.add(x, 0, ...), x, VALUE_EXACT),
    Algebra("add-negative-zero", aten.add(x, -0.0), x, BITWISE),
    Algebra("sub-zero", aten.sub(x, 0), x, BITWISE),
    Algebra("sub-negative-zero", aten.sub(x, -0.0), x, VALUE_EXACT),
    Algebra("mul-one", aten.mul(x, 1), x, BITWISE),
    Algebra("div-one", aten.div(x, 1), x, BITWISE),
    Algebra("mul-minus-one", aten.mul(x, -1), aten.neg(x), VALUE_EXACT),
    Algebra("div-minus-one", aten.div(x, -1), aten.neg(x), VALUE_EXACT),
    Algebra("zero-minus", aten.sub.Tensor(0, x), aten.neg(x), VALUE_EXACT),
    Algebra("rsub-zero", aten.rsub(x, 0), aten.neg(x), VALUE_EXACT),
)

NEGATIONS = (
    Algebra("neg-neg", aten.neg(aten.neg(x)), x, BITWISE),
    Algebra("add-neg", aten.add(x, aten.neg(y)), aten.sub.Tensor(x, y), VALUE_EXACT),
    Algebra("sub-neg", aten.sub.Tensor(x, aten.neg(y)), aten.add.Tensor(x, y), VALUE_EXACT),
    Algebra("neg-sub", aten.neg(aten.sub.Tensor(x, y).once), aten.sub.Tensor(y, x), VALUE_EXACT),
    Algebra("neg-rsub", aten.neg(aten.rsub.Scalar(x, c).once), aten.sub.Scalar(x, c), VALUE_EXACT, where=_number),
    Algebra("mul-neg-neg", aten.mul(aten.neg(x), aten.neg(y)), aten.mul.Tensor(x, y), VALUE_EXACT),
    Algebra("div-neg-neg", aten.div.Tensor(aten.neg(x), aten.neg(y)), aten.div.Tensor(x, y), VALUE_EXACT),
    Algebra("abs-neg", aten.abs(aten.neg(x)), aten.abs(x), BITWISE),
)


class _Zero(Rule):
    """Replace the root by zeros of its type."""

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        return filled(match.root.results[0], 0, rewriter)


class MulZero(_Zero):
    """x · 0 → 0, where x is proved finite: ∞ · 0 and NaN · 0 are NaN."""

    name = "mul-zero"
    contract = VALUE_EXACT
    pattern = (aten.mul(x, 0), aten.mul(x, -0.0))

    def check(self, match: Match) -> str | None:
        """Ask for a proof that x is finite."""
        return None if is_finite(match["x"]) else "x is not proved finite, and ∞ · 0 is NaN"


class SubSelf(_Zero):
    """x − x → 0, where x is proved finite."""

    name = "sub-self"
    contract = BITWISE
    pattern = aten.sub.Tensor(x, x)

    def check(self, match: Match) -> str | None:
        """Ask for a proof that x is finite."""
        return None if is_finite(match["x"]) else "x is not proved finite, and ∞ − ∞ is NaN"


RULES: tuple[Rule, ...] = (*IDENTITIES, *NEGATIONS, MulZero(), SubSelf())
