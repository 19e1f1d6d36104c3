"""Powers, roots and reciprocals.

    x² → x · x    x¹ → x    x⁰ → 1    x^½ → √x    1/√x → rsqrt(x)    x / 2ᵏ → x · 2⁻ᵏ

PyTorch's `pow` is exact for the exponents 1 and 0, and x · x for 2; half precision rounds the other exponents once
more or less than the named function does, so these reassociate. Dividing by a power of two and multiplying by its
reciprocal round the same real number, hence the same bits.
"""

from __future__ import annotations

import math

from graphopt.ir import DType
from graphopt.passes.rules.conditions import dtype_of, is_floating, is_number
from graphopt.passes.support.rebuild import filled
from graphopt.rewrite import Algebra, Contract, Match, Rewriter, Rule, aten, var
from graphopt.rewrite.rule import Replacement

BITWISE, VALUE_EXACT, REASSOCIATING = Contract.BITWISE, Contract.VALUE_EXACT, Contract.REASSOCIATING
x, c = var("x"), var("c")

_HALVES = (DType.F16, DType.BF16)


def _floating(match: Match) -> bool:
    return is_floating(match["x"])


def _full_width(match: Match) -> str | None:
    return "half precision rounds the two differently" if dtype_of(match["x"]) in _HALVES else None


TABLE = (
    Algebra("pow-one", aten.pow.Tensor_Scalar(x, 1), x, BITWISE),
    Algebra("pow-two", aten.pow.Tensor_Scalar(x, 2), aten.mul.Tensor(x, x), VALUE_EXACT),
    Algebra("pow-half", aten.pow.Tensor_Scalar(x, 0.5), aten.sqrt(x), REASSOCIATING, _full_width, _floating),
    Algebra("pow-minus-half", aten.pow.Tensor_Scalar(x, -0.5), aten.rsqrt(x), REASSOCIATING, _full_width, _floating),
    Algebra("pow-minus-one", aten.pow.Tensor_Scalar(x, -1), aten.reciprocal(x), VALUE_EXACT, None, _floating),
    Algebra("reciprocal-sqrt", aten.reciprocal(aten.sqrt(x)), aten.rsqrt(x), REASSOCIATING, None, _floating),
    Algebra("one-over", aten.div.Tensor(1, x), aten.reciprocal(x), BITWISE, None, _floating),
    Algebra("square-of-abs", aten.mul(aten.abs(x), aten.abs(x)), aten.mul.Tensor(x, x), VALUE_EXACT, None, _floating),
)


class PowZero(Rule):
    """x⁰ → 1, for NaN too (IEEE 754 pow)."""

    name = "pow-zero"
    contract = BITWISE
    pattern = aten.pow.Tensor_Scalar(x, 0)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create ones of the root's type."""
        return filled(match.root.results[0], 1, rewriter)


class DivPowerOfTwo(Rule):
    """x / 2ᵏ → x · 2⁻ᵏ."""

    name = "div-power-of-two"
    contract = BITWISE
    pattern = aten.div.Scalar(x, c)

    def guard(self, match: Match) -> bool:
        """2⁻ᵏ must be a normal number of every type in which the product may be computed."""
        number = match["c"]
        if not is_number(number) or not number or not math.isfinite(number):
            return False
        mantissa, exponent = math.frexp(number)
        return abs(mantissa) == 0.5 and exponent != 1 and -13 <= exponent <= 14

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Multiply."""
        return rewriter.create("aten.mul.Scalar", match["x"], 1.0 / match["c"]).result


RULES: tuple[Rule, ...] = (*TABLE, PowZero(), DivPowerOfTwo())
