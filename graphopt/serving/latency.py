"""How long a batch takes, learned from the batches that ran."""

from __future__ import annotations

from bisect import bisect_left, insort
from math import log2

FORGETTING = 0.98
"""What a measurement weighs in the line after one more; a batch of fifty ago counts a third."""

LATEST = 0.2
"""What the latest batch weighs in the mean of its size."""


class LatencyModel:
    """t(w) for a batch of w elements (rows × lengths): between sizes that ran, what they took; beyond, t ≈ α + β·w.

    The line is of least squares over what was measured lately. α is what a batch costs however small it is; batching
    saves it for every request but one. Large batches may take more than the line says, when a cache is full: so sizes
    are remembered by half octaves.
    """

    def __init__(self) -> None:
        self._count = self._work = self._time = self._work_work = self._work_time = 0.0
        self._places: list[int] = []
        self._means: dict[int, tuple[float, float]] = {}
        self.fixed = self.slope = 0.0

    def observe(self, work: float, seconds: float) -> None:
        """Learn from one batch."""
        self._count = FORGETTING * self._count + 1
        self._work = FORGETTING * self._work + work
        self._time = FORGETTING * self._time + seconds
        self._work_work = FORGETTING * self._work_work + work * work
        self._work_time = FORGETTING * self._work_time + work * seconds
        self.fixed, self.slope = self._fit()
        place = round(2 * log2(max(work, 1.0)))
        if place not in self._means:
            insort(self._places, place)
            self._means[place] = work, seconds
        else:
            mean_work, mean_seconds = self._means[place]
            self._means[place] = (
                mean_work + LATEST * (work - mean_work),
                mean_seconds + LATEST * (seconds - mean_seconds),
            )

    def predict(self, work: float) -> float:
        """The seconds that a batch will take; 0 before anything was measured."""
        above = bisect_left(self._places, 2 * log2(max(work, 1.0)))
        if not 0 < above < len(self._places):
            return self.fixed + self.slope * work
        (low, before), (high, after) = (self._means[self._places[i]] for i in (above - 1, above))
        return before + (after - before) * min(max((work - low) / (high - low), 0.0), 1.0)

    def _fit(self) -> tuple[float, float]:
        """The line of least squares with no negative coefficient."""
        spread = self._count * self._work_work - self._work * self._work
        if (
            spread <= 1e-9 * self._count * self._work_work
        ):  # of one size: as if all of it were fixed, so others are tried
            return self._time / self._count, 0.0
        slope = (self._count * self._work_time - self._work * self._time) / spread
        fixed = (self._time - slope * self._work) / self._count
        if slope < 0:
            return self._time / self._count, 0.0
        if fixed < 0:
            return 0.0, self._work_time / self._work_work
        return fixed, slope
