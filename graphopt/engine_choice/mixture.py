"""Several engines in one model: each part is measured in each engine, and the best path through them is loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, permutations
from typing import Any

from graphopt.engine_choice.parts import GraphPart, cuts, is_divisible, split
from graphopt.engine_choice.path import cheapest, joining
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
        alone, over = _measured(parts, graph, fit, inputs, prepare)
        joined = {name: joining(alone[name], fit[name].seconds) for name in fit}
        path, seconds = cheapest(alone, joined, over)
        if len(set(path)) < 2 or seconds > PROMISING * best.seconds:
            return None
        shares = [
            Share(ends[max(index for index, _ in group)], name, settings_of(fit[name].engine))
            for name, group in ((n, list(g)) for n, g in groupby(enumerate(path), key=lambda item: item[1]))
        ]
        plan = Plan(tuple(shares))
        start = time.perf_counter()
        merged = split(graph, [share.end for share in shares])
        chain = load_parts(plan, merged, graph, lambda name: fit[name].engine, prepare)
        return Mixture(plan, chain, time.perf_counter() - start)


def _measured(
    parts: Sequence[GraphPart],
    graph: Graph,
    fit: Mapping[str, Runner],
    inputs: Sequence[Any],
    prepare: Prepare,
) -> tuple[dict[str, list[float]], dict[tuple[str, str], float]]:
    """Seconds of each part alone in each engine, on what the part before gives, infinite where it does not run; and of
    changing from one engine to another, between the first two parts."""
    values = dict(zip(graph.inputs, inputs))
    alone: dict[str, list[float]] = {name: [] for name in fit}
    over = dict.fromkeys(permutations(fit, 2), 0.0)
    before: dict[str, Callable[[], Any]] = {}
    for number, part in enumerate(parts):
        taken = [values[value] for value in part.inputs]
        loaded, given = _loaded(part, fit, taken, prepare)
        calls: dict[str, Callable[[], Any]] = {name: partial(one.run, taken) for name, one in loaded.items()}
        medians = interleaved_medians(calls, ROUNDS, SECONDS_PER_ROUND)
        for name, times in alone.items():
            times.append(medians.get(name, math.inf))
        if number == 1:
            both = {(a, b): partial(_both, before[a], calls[b]) for a, b in over if a in before and b in calls}
            for (a, b), seconds in interleaved_medians(both, ROUNDS, SECONDS_PER_ROUND).items():
                over[a, b] = max(0.0, seconds - alone[a][0] - alone[b][1])
        before = calls
        values.update(zip(part.outputs, given))
    return alone, over


def _loaded(
    part: GraphPart, fit: Mapping[str, Runner], taken: Sequence[Any], prepare: Prepare
) -> tuple[dict[str, Executable], list[Any]]:
    """A part in each engine that runs it, and what it gives."""
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
    return loaded, given


def _both(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    first()
    second()
