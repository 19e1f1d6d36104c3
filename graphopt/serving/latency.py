"""How long a batch takes, learned from the batches that ran."""

from __future__ import annotations

FORGETTING = 0.98
"""What a measurement weighs after one more; a batch of fifty ago counts a third."""


class LatencyModel:
    """t(w) ≈ α + β·w for a batch of w elements (rows × lengths), by least squares over what was measured lately.

    α is what a batch costs however small it is; batching saves it for every request but one.
    """

    def __init__(self) -> None:
        self._count = self._work = self._time = self._work_work = self._work_time = 0.0
        self.fixed = self.slope = 0.0

    def observe(self, work: float, seconds: float) -> None:
        """Learn from one batch."""
        self._count = FORGETTING * self._count + 1
        self._work = FORGETTING * self._work + work
        self._time = FORGETTING * self._time + seconds
        self._work_work = FORGETTING * self._work_work + work * work
        self._work_time = FORGETTING * self._work_time + work * seconds
        self.fixed, self.slope = self._fit()

    def predict(self, work: float) -> float:
        """The seconds that a batch will take; 0 before anything was measured."""
        return self.fixed + self.slope * work

    def _fit(self) -> tuple[float, float]:
        """The line of least squares with no negative coefficient."""
        spread = self._count * self._work_work - self._work * self._work
        if spread <= 1e-9 * self._count * self._work_work:  # batches of one size tell nothing about the fixed cost
            return 0.0, self._time / self._work
        slope = (self._count * self._work_time - self._work * self._time) / spread
        fixed = (self._time - slope * self._work) / self._count
        if slope < 0:
            return self._time / self._count, 0.0
        if fixed < 0:
            return 0.0, self._work_time / self._work_work
        return fixed, slope
