"""What a rewrite promises about numbers."""

from __future__ import annotations

from enum import IntEnum


class Contract(IntEnum):
    """How close the numbers stay, from strictest to loosest; a pass promises the loosest of its rules.

    BITWISE: every bit is the same, in the interpreter with contiguous operands.
    VALUE_EXACT: equal up to the sign of zero and NaN payloads (`x + 0 → x` turns −0.0 into 0.0 the other way).
    REASSOCIATING: the same function over the real numbers, with other rounding (batch-norm folding).
    LOSSY: another function; the loss is reported, and held to a budget if one is given.
    """

    BITWISE = 0
    VALUE_EXACT = 1
    REASSOCIATING = 2
    LOSSY = 3

    @property
    def label(self) -> str:
        """The name in reports: `value-exact`."""
        return self.name.lower().replace("_", "-")
