"""Measured speed-ups: the original and the pruned graph in turn, on the engine that will run the result."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from time import perf_counter
from typing import Any

from graphopt.errors import GraphOptError, TargetError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable

ROUNDS = 16
"""Rounds of both in turn, at most. The least time of each counts, so that a busy moment of the machine does not."""

SETTLED = 3
"""Rounds in a row that improve on neither by 2 %: then the least times are known."""

SECONDS = 0.15
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
        least, settled = [inf, inf], 0
        for _ in range(ROUNDS):
            times = [self._seconds(e, n) for e, n in zip((self._original, other), repeats)]
            settled = settled + 1 if all(new > 0.98 * old for new, old in zip(times, least)) else 0
            least = [min(pair) for pair in zip(times, least)]
            if settled == SETTLED:
                break
        return least[0] / least[1]

    def _repeats(self, executable: Executable) -> int:
        """Runs that take about `SECONDS`, after a warm-up."""
        self._seconds(executable, 2)
        return max(LEAST, min(1000, int(SECONDS / max(self._seconds(executable, 1), 1e-6))))

    def _seconds(self, executable: Executable, repeats: int) -> float:
        """The least time of a run: what else the machine does only ever adds to it."""
        times = []
        for _ in range(repeats):
            start = perf_counter()
            executable.run(self.inputs)
            times.append(perf_counter() - start)
        return min(times)
