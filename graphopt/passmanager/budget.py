"""How much error lossy passes may add up to."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import GraphOptError
from graphopt.passmanager.report import ErrorSummary


class OverBudget(GraphOptError):
    """A lossy pass whose error, added to what was lost before, exceeds the budget."""


@dataclass(frozen=True)
class Budget:
    """Bounds on the error of the outputs against the original model, all lossy passes together.

    relative_rms: root of (energy of the difference / energy of the output), for the worst output; 0.01 is an SQNR of
        40 dB. For integer outputs the share of elements that differ. max_rel: largest difference over the output's
        largest magnitude. max_abs: largest difference.
    """

    relative_rms: float | None = None
    max_rel: float | None = None
    max_abs: float | None = None

    def __post_init__(self) -> None:
        for name in ("relative_rms", "max_rel", "max_abs"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise GraphOptError(f"budget {name} must be a number of at least 0, got {value!r}")

    @classmethod
    def of(cls, given: float | Budget | None) -> Budget | None:
        """Read a budget: a number bounds the relative RMS error."""
        if given is None or isinstance(given, Budget):
            return given
        return cls(relative_rms=float(given))

    def check(self, error: ErrorSummary) -> None:
        """Hold an error to the budget.

        Raises:
            OverBudget: names the bound and the error.
        """
        share = error.mismatches / error.elements if error.elements else 0.0
        for name, found in (
            ("relative_rms", max(error.relative_rms, share)),
            ("max_rel", error.max_rel),
            ("max_abs", error.max_abs),
        ):
            bound = getattr(self, name)
            if bound is not None and not found <= bound:
                raise OverBudget(f"the error ({name}) would grow to {found:.3g}, the budget is {bound:.3g}")
