"""Clamps, and the activations that are clamps.

    clamp(x; a, b) = min(max(x, a), b); relu = clamp(·; 0, ∞); relu6 = clamp(·; 0, 6); hardtanh = clamp(·; a, b)

With a ≤ b, f = clamp(·; a, b) is monotone, the identity on [a, b], and so is g = clamp(·; c, d). So g∘f is monotone,
takes values in [g(a), g(b)], and is the identity where both are:

    clamp(clamp(x; a, b); c, d) = clamp(x; g(a), g(b))

which also holds for disjoint intervals (both limits are then the same number). NaN passes through all of them. A limit
that is −0 or 0 may come out with the other sign, hence value-exact.
"""

from __future__ import annotations

import math
from typing import Any

from graphopt.ir import Node, Value
from graphopt.passes.rules.conditions import dtype_of, is_number
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, constant, produced_by, uniform_value, var
from graphopt.rewrite.rule import Replacement

Interval = tuple[float, float]
_INFINITY = math.inf
_LIMITS = {
    "aten.clamp": ("min", "max"),
    "aten.clip": ("min", "max"),
    "aten.hardtanh": ("min_val", "max_val"),
    "aten.clamp_min": ("min", ""),
    "aten.clamp_max": ("", "max"),
}
_FIXED: dict[str, Interval] = {"aten.relu": (0, _INFINITY), "aten.relu6": (0, 6)}
CLAMPS = (*_LIMITS, *_FIXED)
# Values (NaN apart) that these operators give in floating point, not only over the reals.
_RANGES: dict[str, Interval] = {
    "aten.sigmoid": (0, 1),
    "aten.hardsigmoid": (0, 1),
    "aten.abs": (0, _INFINITY),
    "aten.exp": (0, _INFINITY),
    "aten.sqrt": (-0.0, _INFINITY),
}
x = var("x")


def limits(node: Node) -> Interval | None:
    """The interval of a clamp by numbers; None for any other node, and for limits that are NaN."""
    op = node.op
    if op.base in _FIXED:
        return _FIXED[op.base]
    names = _LIMITS.get(op.base)
    if names is None or op.name != op.base:
        return None
    low = _limit(node, names[0], -_INFINITY)
    high = _limit(node, names[1], _INFINITY)
    if low is None or high is None:
        return None
    return min(low, high), high


def _limit(node: Node, name: str, default: float) -> Any:
    value = node.attributes.get(name) if name else None
    if value is None:
        return default
    return value if is_number(value) and value == value else None


def _same_dtype(inner: Node, root: Node) -> bool:
    source = inner._operands[0]
    return source is not None and dtype_of(source) is dtype_of(root.results[0]) is dtype_of(inner.results[0])


def merged_limits(inner: Interval, outer: Interval) -> Interval:
    """The limits of the outer clamp applied to the inner one."""
    low, high = outer
    return min(max(inner[0], low), high), min(max(inner[1], low), high)


class MergeClamps(Rule):
    """Two clamps become one: the inner or outer one if its limits decide, `clamp` otherwise."""

    name = "merge-clamps"
    contract = Contract.VALUE_EXACT
    pattern = tuple(getattr(aten, name.removeprefix("aten."))(produced_by(CLAMPS, "inner"), ...) for name in CLAMPS)

    def guard(self, match: Match) -> bool:
        """Both have limits that are numbers."""
        return limits(match.node("inner")) is not None and limits(match.root) is not None

    def check(self, match: Match) -> str | None:
        """Limits take part in type promotion, so the types must agree."""
        return None if _same_dtype(match.node("inner"), match.root) else "the limits change the type"

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The clamp that decides, applied to x."""
        inner, root = match.node("inner"), match.root
        inside, outside = limits(inner), limits(root)
        assert inside is not None and outside is not None
        low, high = merged_limits(inside, outside)
        if (low, high) == inside:
            return inner.results[0]
        source = inner.operands[0]
        if (low, high) == outside:
            return rewriter.create(root.op, source, **root.attributes).result
        return make_clamp(source, low, high, rewriter)


class ClampOfRange(Rule):
    """A clamp of values that are within its limits already: relu(sigmoid(x)) → sigmoid(x)."""

    name = "clamp-of-range"
    contract = Contract.VALUE_EXACT
    pattern = tuple(getattr(aten, name.removeprefix("aten."))(produced_by(_RANGES, "inner"), ...) for name in CLAMPS)

    def guard(self, match: Match) -> bool:
        """The range lies within the limits."""
        inner = match.node("inner")
        found = limits(match.root)
        low, high = _RANGES[inner.op.base]
        return found is not None and found[0] <= low and high <= found[1]

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The values as they are."""
        return match.node("inner").results[0]


def nonnegative(value: Value) -> bool:
    """True if no element is negative (NaN may be there)."""
    node = value.producer
    if node is None:
        return False
    found = _RANGES.get(node.op.base) or limits(node)
    return found is not None and found[0] >= 0


class AbsOfRange(Rule):
    """|x| → x, where x is never negative."""

    name = "abs-of-range"
    contract = Contract.VALUE_EXACT
    pattern = aten.abs(produced_by((*_FIXED, *_RANGES, *_LIMITS), "inner"))

    def guard(self, match: Match) -> bool:
        """The range starts at zero or above."""
        return nonnegative(match.node("inner").results[0])

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The values as they are."""
        return match.node("inner").results[0]


class UnlimitedClamp(Rule):
    """clamp(x; −∞, ∞) → x."""

    name = "unlimited-clamp"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name.removeprefix("aten."))(x, ...) for name in _LIMITS)

    def guard(self, match: Match) -> bool:
        """Neither limit binds."""
        return limits(match.root) == (-_INFINITY, _INFINITY)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The operand itself."""
        return match["x"]


class ExtremumToClamp(Rule):
    """max(x, c) → clamp(x; c, ∞) and min(x, c) → clamp(x; −∞, c), for a stored tensor of one number."""

    name = "extremum-to-clamp"
    contract = Contract.VALUE_EXACT
    pattern = tuple(getattr(aten, name)(x, constant("c")) for name in ("maximum", "minimum"))

    def guard(self, match: Match) -> bool:
        """c is uniform and of x's type (promotion follows dtypes of tensors, not of numbers)."""
        value: Value = match["c"]
        if dtype_of(value) is not dtype_of(match["x"]):
            return False
        number = uniform_value(value)
        return number is not None and not isinstance(number, bool)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Clamp on one side."""
        number = uniform_value(match["c"])
        assert number is not None
        if match.root.op.base == "aten.maximum":
            return make_clamp(match["x"], number, _INFINITY, rewriter)
        return make_clamp(match["x"], -_INFINITY, number, rewriter)


def make_clamp(source: Value | None, low: float, high: float, rewriter: Rewriter) -> Value:
    """Create `relu` or `clamp`; an infinite limit is none, and without limits the source is as it should be."""
    if (low, high) == (-_INFINITY, _INFINITY):
        assert source is not None
        return source
    if low == 0 and high == _INFINITY:
        return rewriter.create("aten.relu", source).result
    minimum = None if low == -_INFINITY else low
    maximum = None if high == _INFINITY else high
    return rewriter.create("aten.clamp", source, minimum, maximum).result


RULES: tuple[Rule, ...] = (MergeClamps(), ClampOfRange(), AbsOfRange(), UnlimitedClamp(), ExtremumToClamp())
