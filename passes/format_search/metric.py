"""The caller's metric, higher is better, and the search for the cheapest choice that keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passes.format_search.choosing import Choice, Problem


class Metric:
    """Calls a metric on graphs, and remembers what it said of a choice. trials: how many choices may be measured."""

    def __init__(
        self,
        function: Callable[[Graph], Any],
        original: Graph,
        quantized: Callable[[Choice], Graph],
        trials: int,
    ) -> None:
        self.function = function
        self.quantized = quantized
        self.left = trials
        self.baseline = self.value(original, "the model in floating point")
        self.values: dict[tuple[tuple[str, str], ...], float] = {}
        self.choices: list[Choice] = []

    def value(self, graph: Graph, what: str) -> float:
        """Return the metric of a graph.

        Raises:
            GraphOptError: it raises, or gives no finite number; the message says on what.
        """
        try:
            found = float(self.function(graph))
        except Exception as error:
            raise GraphOptError(f"the metric raised {type(error).__name__} on {what}: {error}") from error
        if not math.isfinite(found):
            raise GraphOptError(f"the metric gave {found} on {what}; it must give a finite number, higher is better")
        return found

    def drop(self, choice: Choice) -> float:
        """How far the metric falls under a choice."""
        key = tuple(choice.formats.items())
        if key not in self.values:
            counts = ", ".join(f"{count} weights in {name}" for name, count in choice.counts().items())
            self.values[key] = self.value(self.quantized(choice), f"the model with {counts}")
            self.choices.append(choice)
            self.left -= 1
        return self.baseline - self.values[key]

    def measured(self, choice: Choice) -> float | None:
        """The metric of a choice, if it was measured."""
        return self.values.get(tuple(choice.formats.items()))


def cheapest_within(
    problem: Problem, metric: Metric, kind: str, limits: Mapping[str, float], max_drop: float
) -> Choice:
    """Return the cheapest choice whose drop is at most `max_drop`, as far as the trials go.

    Choices that nothing beats by prediction are tried by bisection, since a dearer one should drop less; then those
    between the dearest that failed and the cheapest that held. If none holds, the one that dropped the least.
    """
    low: Choice | None = None
    held: Choice | None = None
    choices = problem.pareto(kind, limits)
    while choices and metric.left > 0:
        low, held = _bisected(choices, metric, max_drop, low, held)
        if low is None or held is None:
            break
        choices = [
            choice
            for choice in problem.between(kind, limits, low.costs[kind], held.costs[kind])
            if low.costs[kind] < choice.costs[kind] < held.costs[kind]
        ]
    return held if held is not None else min(metric.choices, key=metric.drop)


def _bisected(
    choices: list[Choice], metric: Metric, max_drop: float, low: Choice | None, held: Choice | None
) -> tuple[Choice | None, Choice | None]:
    """The dearest that failed, and the cheapest that held."""
    first, last = 0, len(choices)
    while first < last and metric.left > 0:
        middle = (first + last) // 2
        if metric.drop(choices[middle]) <= max_drop:
            held, last = choices[middle], middle
        else:
            low, first = choices[middle], middle + 1
    return low, held
