"""What a server did, in numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

REMEMBERED = 4096
"""Latencies are those of so many requests last answered."""


@dataclass(frozen=True)
class ServingStatistics:
    """A snapshot. Latencies, in seconds, from submission to answer, of the last 4,096 requests answered.

    answered, failed, cancelled: requests. batches: runs of the model. rows: that it ran on. padding: the share of the
    elements that it ran on that no request asked for. waiting: requests in the queue now.
    """

    answered: int
    failed: int
    cancelled: int
    waiting: int
    batches: int
    rows: int
    padding: float
    median: float
    p99: float


class Counters:
    """Counts as requests come and go. Whoever holds the server's lock may write."""

    def __init__(self) -> None:
        self.answered = self.failed = self.cancelled = self.batches = self.rows = 0
        self.own = self.run = 0
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)

    def answer(self, seconds: float) -> None:
        """One more request has its result."""
        self.answered += 1
        self._latencies.append(seconds)

    def batch(self, rows: int, own: int, run: int) -> None:
        """One more run: elements that requests brought, and elements that it ran on."""
        self.batches += 1
        self.rows += rows
        self.own += own
        self.run += run

    def snapshot(self, waiting: int) -> ServingStatistics:
        """The numbers now."""
        ordered = sorted(self._latencies) or [0.0]
        return ServingStatistics(
            self.answered,
            self.failed,
            self.cancelled,
            waiting,
            self.batches,
            self.rows,
            1 - self.own / self.run if self.run else 0.0,
            ordered[len(ordered) // 2],
            ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        )
