"""The order of nodes, for the objective "latency": devices run their nodes in it, so it decides what waits for what."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.evaluation import cost, is_feasible
from graphopt.passes.partitioning.heuristic import ROOMS
from graphopt.passes.partitioning.problem import Ints, Objective, Problem
from graphopt.passes.partitioning.solver import EXACT, NoSplit, Split, solve
from graphopt.passes.partitioning.starts import heft, single_devices


def solve_with_order(
    problem: Problem,
    objective: Objective = "serial",
    *,
    fixed: bool = False,
    time_limit: float = 20.0,
    seed: int = 0,
) -> tuple[Split | NoSplit, Ints]:
    """Solve a problem whose nodes may be put into another order, and return that: position → node.

    Besides the given order that of the best schedule by HEFT is looked at. The assignment and its bound are those of
    the problem in the order that is returned.

    fixed: keep the given order.
    """
    given, deadline = np.arange(problem.nodes), monotonic() + time_limit
    scheduled = _scheduled(problem) if objective == "latency" and problem.devices > 1 and not fixed else None
    left = max(deadline - monotonic(), 0.0)
    if scheduled is None:
        return solve(problem, objective, time_limit=left, seed=seed), given
    if problem.nodes > EXACT:
        return solve(problem.reordered(scheduled), objective, time_limit=left, seed=seed), scheduled
    first = solve(problem, objective, time_limit=left / 2, seed=seed)
    second = solve(problem.reordered(scheduled), objective, time_limit=deadline - monotonic(), seed=seed)
    better = isinstance(second, Split) and (isinstance(first, NoSplit) or second.cost < first.cost)
    return (second, scheduled) if better else (first, given)


def _scheduled(problem: Problem) -> Ints | None:
    """The order of the schedule by HEFT that ends first, if it ends before what the given order starts from."""
    value, best, schedules = np.inf, None, list(_schedules(problem))
    for assignment in (*single_devices(problem), *[found for found, _ in schedules]):
        if is_feasible(problem, assignment):
            value = min(value, cost(problem, assignment, "latency"))
    for assignment, order in schedules:
        other = problem.reordered(order)
        if is_feasible(other, assignment[order]):
            found = cost(other, assignment[order], "latency")
            if found < value * (1 - 1e-9):
                value, best = found, order
    return best


def _schedules(problem: Problem) -> Iterator[tuple[Ints, Ints]]:
    for room in (None, *(ROOMS if problem.is_bounded else ())):
        found = heft(problem, None if room is None else problem.limits * room)
        yield found.assignment, found.order
