"""What a search for formats tried and found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from graphopt.passes.format_search.choosing import Choice


@dataclass(frozen=True)
class Point:
    """A choice: how many weights have each format, predicted error and costs, and the metric's value where measured.

    drop: of the metric from what the model in floating point has.
    """

    counts: Mapping[str, int]
    error: float
    costs: Mapping[str, float]
    value: float | None = None
    drop: float | None = None
    chosen: bool = False


@dataclass
class SearchReport:
    """asked: as text. sensitivity: how it was measured. errors: of each weight by format. formats: what was chosen.

    points: choices that nothing beats by prediction, and those that were measured, by rising cost of the kind `cost`.
    baseline: the metric of the model in floating point. kept: whether the choice keeps what was asked of it.
    """

    asked: str
    sensitivity: str
    cost: str
    errors: dict[str, dict[str, float]]
    formats: dict[str, str]
    points: list[Point] = field(default_factory=list)
    baseline: float | None = None
    kept: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Sentences: what was asked and chosen, then every point."""
        counts = ", ".join(f"{count} in {name}" for name, count in counted(self.formats).items())
        found = [f"formats for {self.asked} by {self.sensitivity}: {counts}"]
        if not self.kept:
            found.append("no choice that was tried keeps the metric so near; this is the one that dropped the least")
        return [*found, *map(self._line, self.points)]

    def _line(self, point: Point) -> str:
        costs = ", ".join(f"{kind} {share:.1%}" for kind, share in point.costs.items())
        counts = ", ".join(f"{count} {name}" for name, count in point.counts.items())
        measured = "" if point.value is None else f", metric {point.value:.6g} (drop {point.drop:.3g})"
        return f"{'chosen: ' if point.chosen else ''}{counts}: {costs}, predicted error {point.error:.3g}{measured}"


def counted(formats: Mapping[str, str]) -> dict[str, int]:
    """How many weights have each format."""
    return Choice(dict(formats), 0.0, {}).counts()
