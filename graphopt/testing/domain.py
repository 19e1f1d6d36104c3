"""What is known of the numbers of a generated value: an interval, and whether they are free of rounding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Domain:
    """Every element lies in [low, high].

    exact: no rounding happened on the way here, so engines agree on every bit. Only then may the value go into an
    operator with a jump (a comparison, `floor`, a cast to integers), where a last bit more or less changes everything.

    >>> Domain(-2.0, 2.0).map(abs).low
    0.0
    """

    low: float
    high: float
    exact: bool = True

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    @property
    def has_zero(self) -> bool:
        """True if an element may be zero, or rounds to zero."""
        return self.low < 1e-3 and self.high > -1e-3

    def within(self, low: float, high: float) -> bool:
        """True if the interval is part of [low, high]."""
        return low <= self.low and self.high <= high

    def rounded(self) -> Domain:
        """The same interval after an operation that rounds."""
        return replace(self, exact=False) if self.exact else self

    def union(self, *others: Domain) -> Domain:
        """The smallest domain that holds all."""
        every = (self, *others)
        return Domain(min(d.low for d in every), max(d.high for d in every), all(d.exact for d in every))

    def clamp(self, low: float = -math.inf, high: float = math.inf) -> Domain:
        """Elements brought into [low, high]."""
        return Domain(min(max(self.low, low), high), max(min(self.high, high), low), self.exact)

    def map(self, function: Callable[[float], float], *, exact: bool | None = None) -> Domain:
        """A function that is monotone on either side of zero, applied to the elements."""
        points = [self.low, self.high] + ([0.0] if self.low < 0 < self.high else [])
        values = [function(p) for p in points]
        return Domain(min(values), max(values), self.exact if exact is None else exact)

    def combine(self, other: Domain, function: Callable[[float, float], float], *, exact: bool | None = None) -> Domain:
        """A function that is monotone in each argument, applied to pairs of elements."""
        values = [function(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        return Domain(min(values), max(values), (self.exact and other.exact) if exact is None else exact)

    def scaled(self, factor: float, *, exact: bool = False) -> Domain:
        """Elements times (or sums of up to) `factor` of them, zero included."""
        return Domain(min(self.low * factor, 0.0), max(self.high * factor, 0.0), exact and self.exact)


BOOL = Domain(0.0, 1.0)
UNIT = Domain(0.0, 1.0, False)
"""The range of probabilities."""


def symmetric(magnitude: float, *, exact: bool = False) -> Domain:
    """[-magnitude, magnitude].

    >>> symmetric(3.0)
    Domain(low=-3.0, high=3.0, exact=False)
    """
    return Domain(-magnitude, magnitude, exact)
