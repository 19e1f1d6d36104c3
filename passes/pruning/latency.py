"""Measured speed-ups: the original and the pruned graph in turn, on the engine that will run the result."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from graphopt.errors import GraphOptError, TargetError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable

ROUNDS = 15
"""Rounds of both in turn, at most; each gives a ratio of medians, and the median of the ratios counts."""

ENOUGH = 5
"""Rounds, at least."""

SPREAD = 0.04
"""The ratios have settled when the middle half of them lies within this share of their median."""

SECONDS = 0.25
"""How long each runs in a round, at least, so that the clock does not decide."""

LEAST = 7
"""Runs in a round, at least: the first ones find cold caches, and the other's threads still spinning."""


class Stopwatch:
    """Measures how much faster graphs are than an original.

    Raises:
        TargetError: the engine cannot run here, or not this graph.
        GraphOptError: there are no inputs to run on.
    """

    def __init__(self, engine: Engine | None, original: Graph, inputs: Sequence[Any] | None) -> None:
        if engine is None:
            raise GraphOptError(
                "a speed-up is measured on an engine, and this target has none; name one, as engine=onnxruntime"
            )
        if inputs is None:
            raise GraphOptError("a speed-up is measured on example inputs, and there are none; give some")
        reason = engine.missing() or engine.unsupported(original)
        if reason is not None:
            raise TargetError(f"engine {engine.name!r} cannot measure this graph: {reason}")
        self.engine = engine
        self.inputs = inputs
        self._original = engine.load(original)

    def speedup(self, graph: Graph) -> float:
        """Return the time of the original over that of a graph."""
        other = self.engine.load(graph)
        repeats = [self._repeats(self._original), self._repeats(other)]
        ratios: list[float] = []
        while len(ratios) < ROUNDS and not _settled(ratios):
            before, after = (self._seconds(e, n) for e, n in zip((self._original, other), repeats))
            ratios.append(before / after)
        return median(ratios)

    def _repeats(self, executable: Executable) -> int:
        """Runs that take about `SECONDS`, after a warm-up."""
        self._seconds(executable, 2)
        return max(LEAST, min(1000, int(SECONDS / max(self._seconds(executable, 1), 1e-6))))

    def _seconds(self, executable: Executable, repeats: int) -> float:
        """The median time of a run."""
        times = []
        for _ in range(repeats):
            start = perf_counter()
            executable.run(self.inputs)
            times.append(perf_counter() - start)
        return median(times)


def _settled(ratios: list[float]) -> bool:
    if len(ratios) < ENOUGH:
        return False
    low, middle, high = quantiles(ratios)
    return high - low <= SPREAD * middle
