"""The profit guard: a pass that is meant to make the graph faster is kept only if it does so on the engine."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

from graphopt.ir import Graph
from graphopt.targets import Engine, Executable

ROUNDS = 5
ENOUGH = 0.02
"""Seconds that a round of repeated runs should take, so that the clock's noise does not decide."""


def medians(engine: Engine, before: Graph, after: Graph, inputs: Sequence[Any]) -> tuple[float, float]:
    """Return the seconds that one run of each graph takes: medians of interleaved rounds, after a warm-up."""
    old, new = engine.load(before), engine.load(after)
    repeats = max(1, min(100, int(ENOUGH / max(_seconds(old, inputs, 1), _seconds(new, inputs, 1), 1e-6))))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        times[0].append(_seconds(old, inputs, repeats))
        times[1].append(_seconds(new, inputs, repeats))
    return median(times[0]), median(times[1])


def _seconds(loaded: Executable, inputs: Sequence[Any], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        loaded.run(inputs)
    return (perf_counter() - start) / repeats


def no_profit(engine: Engine | None, before: Graph, after: Graph, inputs: Sequence[Any] | None) -> tuple[bool, str]:
    """Return whether a change should be reverted, and what was found.

    Without an engine, or samples to run it on, nothing is known and nothing is reverted.
    """
    if engine is None or inputs is None:
        return False, "its speed was not measured: there is no engine or no sample input"
    for graph in (before, after):
        reason = engine.unsupported(graph)
        if reason is not None:
            return False, f"its speed was not measured: {engine.name} cannot run the graph: {reason}"
    old, new = medians(engine, before, after, inputs)
    found = f"{1e3 * old:.3g} ms before and {1e3 * new:.3g} ms after on {engine.name}"
    return new >= old, found
