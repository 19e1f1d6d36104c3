"""Fair timing: candidates in turn, medians of medians, so that a busy moment of the machine does not decide."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Name = TypeVar("Name")


def interleaved_medians(calls: Mapping[Name, Callable[[], Any]], rounds: int, seconds: float) -> dict[Name, float]:
    """Return the seconds per call of each candidate: the median over rounds of its median in a round.

    rounds: the candidates run in turn this many times, each round from another one on, for the one that runs behind a
    slow neighbour pays for its caches. seconds: about how long each runs in a round.
    """
    names = list(calls)
    taken: dict[Name, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        shift = index % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            taken[name].append(median_seconds(calls[name], seconds))
    return {name: statistics.median(times) for name, times in taken.items()}


def median_seconds(call: Callable[[], Any], seconds: float, least: int = 3) -> float:
    """Return the median time of calls made for about `seconds`, and at least `least` of them."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
