"""Logic, comparisons and selection: all bitwise, but for the payload of NaN that `maximum` does not keep.

    ¬¬p → p    ¬(x = y) → x ≠ y    p ∧ true → p    where(c, x, x) → x    max(x, x) → x

¬(x < y) → x ≥ y holds for integers only: NaN makes both comparisons false.
"""

from __future__ import annotations

from graphopt.passes.rules.conditions import is_bool, is_integral, is_nonnegative
from graphopt.passes.support.rebuild import filled
from graphopt.rewrite import Algebra, Contract, Match, Rewriter, Rule, aten, uniform_value, var
from graphopt.rewrite.rule import Replacement

BITWISE, VALUE_EXACT = Contract.BITWISE, Contract.VALUE_EXACT
x, y, c, p = var("x"), var("y"), var("c"), var("p")


def _bool(match: Match) -> bool:
    return is_bool(match["p"])


def _mask(match: Match) -> bool:
    return is_bool(match["c"])


def _integers(match: Match) -> str | None:
    both = is_integral(match["x"]) and (not hasattr(match["y"], "type") or is_integral(match["y"]))
    number = not isinstance(match["y"], float)
    return None if both and number else "NaN makes a comparison and its opposite both false"


def _negated(comparison: str, opposite: str, *, integers: bool) -> tuple[Algebra, Algebra]:
    """¬(x ∘ y) → x ∘' y, for a tensor and for a number on the right."""
    when = _integers if integers else None
    rules = []
    for overload in ("Tensor", "Scalar"):
        before = getattr(getattr(aten, comparison), overload)(x, y)
        after = getattr(getattr(aten, opposite), overload)(x, y)
        rules.append(Algebra(f"not-{comparison}", aten.logical_not(before.once), after, BITWISE, when))
    return rules[0], rules[1]


TABLE = (
    Algebra("not-not", aten.logical_not(aten.logical_not(p)), p, BITWISE, None, _bool),
    Algebra("bitwise-not-not", aten.bitwise_not(aten.bitwise_not(x)), x, BITWISE),
    *_negated("eq", "ne", integers=False),
    *_negated("ne", "eq", integers=False),
    *_negated("lt", "ge", integers=True),
    *_negated("ge", "lt", integers=True),
    *_negated("gt", "le", integers=True),
    *_negated("le", "gt", integers=True),
    Algebra("and-true", aten.logical_and(p, 1), p, BITWISE, None, _bool),
    Algebra("or-false", aten.logical_or(p, 0), p, BITWISE, None, _bool),
    Algebra("xor-false", aten.logical_xor(p, 0), p, BITWISE, None, _bool),
    Algebra("and-self", aten.logical_and(p, p), p, BITWISE, None, _bool),
    Algebra("or-self", aten.logical_or(p, p), p, BITWISE, None, _bool),
    Algebra("bitwise-and-self", aten.bitwise_and.Tensor(x, x), x, BITWISE),
    Algebra("bitwise-or-self", aten.bitwise_or.Tensor(x, x), x, BITWISE),
    Algebra("bitwise-or-zero", aten.bitwise_or(x, 0), x, BITWISE),
    Algebra("bitwise-xor-zero", aten.bitwise_xor(x, 0), x, BITWISE),
    Algebra("bitwise-and-true", aten.bitwise_and(p, 1), p, BITWISE, None, _bool),
    Algebra("maximum-self", aten.maximum(x, x), x, VALUE_EXACT),
    Algebra("minimum-self", aten.minimum(x, x), x, VALUE_EXACT),
    Algebra("where-same", aten.where.self(c, x, x), x, BITWISE),
    Algebra("where-not", aten.where.self(aten.logical_not(c), x, y), aten.where.self(c, y, x), BITWISE, None, _mask),
)


class _Where(Rule):
    """Selections whose condition is a stored tensor of one value."""

    contract = BITWISE

    def guard(self, match: Match) -> bool:
        """The condition is fixed and uniform."""
        return match.surroundings.is_fixed(match["c"]) and uniform_value(match["c"]) is not None


class WhereConstant(_Where):
    """where(true, x, y) → x; where(false, x, y) → y."""

    name = "where-constant"
    pattern = aten.where.self(c, x, y)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Take the branch."""
        return match["x"] if uniform_value(match["c"]) else match["y"]


class MaskedFillNothing(_Where):
    """masked_fill(x, false, value) → x."""

    name = "masked-fill-nothing"
    pattern = (aten.masked_fill.Scalar(x, c, ...), aten.masked_fill.Tensor(x, c, ...))

    def guard(self, match: Match) -> bool:
        """The mask is false throughout."""
        return super().guard(match) and not uniform_value(match["c"])

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Nothing is filled."""
        return match["x"]


class WhereNegative(Rule):
    """where(x < 0, y, z) → z, for integers x that count, or are otherwise proved not to be negative.

    So indices that may count from the end are written, and most of them don't.
    """

    name = "where-negative"
    contract = BITWISE
    pattern = aten.where.self(aten.lt.Scalar(x, 0), y, var("z"))

    def guard(self, match: Match) -> bool:
        """No element is negative."""
        return is_nonnegative(match["x"], match.surroundings)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Take the branch."""
        return match["z"]


class CompareSelf(Rule):
    """x = x, x ≤ x, x ≥ x → true; x ≠ x, x < x, x > x → false, for integers."""

    name = "compare-self"
    contract = BITWISE
    pattern = tuple(getattr(aten, name).Tensor(x, x) for name in ("eq", "le", "ge", "ne", "lt", "gt"))

    def check(self, match: Match) -> str | None:
        """NaN is not equal to itself."""
        return None if is_integral(match["x"]) else "NaN ≠ NaN"

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create the truth value in the root's shape."""
        return filled(match.root.results[0], match.root.op.base in ("aten.eq", "aten.le", "aten.ge"), rewriter)


RULES: tuple[Rule, ...] = (*TABLE, WhereConstant(), MaskedFillNothing(), WhereNegative(), CompareSelf())
