"""Several engines in one model: each part is measured in each engine, and the best path through them is loaded."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

from graphopt.engine_choice.parts import GraphPart, cuts, is_divisible, split
from graphopt.engine_choice.path import cheapest, hand_over
from graphopt.engine_choice.plan import Plan, Prepare, Share, beside_others, load_parts, settings_of
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable
from graphopt.timing import interleaved_medians

LEAST_SECONDS = 5e-4
"""Shorter models gain nothing that pays for another call."""
MOST_LOADING = 5.0
"""Seconds. Engines that took longer to load, for they compile code, are not loaded for each part."""
PROMISING = 0.95
ROUNDS = 3
SECONDS_PER_ROUND = 0.04


@dataclass(frozen=True)
class Runner:
    """An engine that runs the whole graph rightly. seconds: of a run."""

    engine: Engine
    seconds: float
    load_seconds: float


@dataclass
class Mixture:
    """A loaded plan of several engines."""

    plan: Plan
    executable: Executable
    load_seconds: float

    @staticmethod
    def find(
        graph: Graph,
        runners: Sequence[Runner],
        inputs: Sequence[Any],
        sizes: Mapping[str, int],
        prepare: Prepare,
    ) -> Mixture | None:
        """Return the mixture that promises most, or None if none promises 5 % more than the best engine alone.

        runners: the fastest first.
        """
        best = runners[0]
        fit = {
            r.engine.name: replace(r, engine=beside_others(r.engine))
            for r in reversed(runners)
            if r.load_seconds <= MOST_LOADING
        }
        if len(fit) < 2 or best.seconds < LEAST_SECONDS or not is_divisible(graph):
            return None
        ends = [*cuts(graph, sizes), len(graph)]
        parts = split(graph, ends)
        if len(parts) < 2:
            return None
        alone = _times(parts, graph, fit, inputs, prepare)
        over = {name: hand_over(alone[name], fit[name].seconds) for name in fit}
        path, seconds = cheapest(alone, over)
        if len(set(path)) < 2 or seconds > PROMISING * best.seconds:
            return None
        shares = [
            Share(ends[max(index for index, _ in group)], name, settings_of(fit[name].engine))
            for name, group in ((n, list(g)) for n, g in groupby(enumerate(path), key=lambda item: item[1]))
        ]
        plan = Plan(tuple(shares))
        start = time.perf_counter()
        joined = split(graph, [share.end for share in shares])
        chain = load_parts(plan, joined, graph, lambda name: fit[name].engine, prepare)
        return Mixture(plan, chain, time.perf_counter() - start)


def _times(
    parts: Sequence[GraphPart],
    graph: Graph,
    fit: Mapping[str, Runner],
    inputs: Sequence[Any],
    prepare: Prepare,
) -> dict[str, list[float]]:
    """Seconds of each part alone in each engine, on what the part before gives; infinite where it does not run."""
    values = dict(zip(graph.inputs, inputs))
    found: dict[str, list[float]] = {name: [] for name in fit}
    for part in parts:
        taken = [values[value] for value in part.inputs]
        loaded: dict[str, Executable] = {}
        given: list[Any] = []
        for name, runner in fit.items():
            form = prepare(name, part.graph)
            try:
                if runner.engine.unsupported(form) is None:
                    executable = runner.engine.load(form)
                    given = executable.run(taken)
                    loaded[name] = executable
            except GraphOptError:  # what runs as a whole need not run in parts
                continue
        calls = {name: partial(one.run, taken) for name, one in loaded.items()}
        medians = interleaved_medians(calls, ROUNDS, SECONDS_PER_ROUND)
        for name, times in found.items():
            times.append(medians.get(name, float("inf")))
        values.update(zip(part.outputs, given))
    return found
