"""From a problem to an assignment with a proven gap.

up to 40 nodes              the integer program, exact
two devices, no limit       a minimum cut, for the objective "serial"
otherwise                   a lower bound by linear relaxation, and improved starts: see `heuristic`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.coarse import fuse
from graphopt.passes.partitioning.evaluation import cost, is_feasible, peaks
from graphopt.passes.partitioning.heuristic import GROUPS, Split, integer_programs, search_split
from graphopt.passes.partitioning.minimum_cut import is_minimum_cut, minimum_cut
from graphopt.passes.partitioning.problem import Ints, Objective, Problem
from graphopt.passes.partitioning.program import solve_program
from graphopt.passes.partitioning.starts import heft, pieces, single_devices

EXACT = 40
"""Nodes up to which the integer program is solved to the end."""
CUT = 400
"""Nodes up to which networkx finds a minimum cut; beyond, the linear relaxation finds the same one sooner."""


@dataclass(frozen=True)
class NoSplit:
    """Why there is no assignment: the least factor of all memory limits with which there is one (1 or less: it is not
    memory), and whether that is known to do, or only that less does not."""

    factor: float
    enough: bool


def solve(
    problem: Problem, objective: Objective = "serial", *, time_limit: float = 20.0, seed: int = 0
) -> Split | NoSplit:
    """Assign each node a device. Two runs give the same result, unless time ran out.

    time_limit: seconds, roughly.
    """
    deadline = monotonic() + time_limit
    if problem.nodes == 0 or problem.devices == 1:
        alone = np.zeros(problem.nodes, dtype=np.int64)
        if is_feasible(problem, alone):
            value = cost(problem, alone, objective)
            return Split(alone, value, value, "one device")
        return _reason(problem, deadline)
    if is_minimum_cut(problem, objective) and problem.nodes <= CUT:
        assignment = minimum_cut(problem)
        value = cost(problem, assignment, objective)
        return Split(assignment, value, value, "minimum cut")
    if problem.nodes <= EXACT:
        found = _exact(problem, objective, deadline)
    else:
        found = search_split(problem, objective, seed, deadline)
    return _reason(problem, deadline) if found is None else found


def _exact(problem: Problem, objective: Objective, deadline: float) -> Split | None:
    """Solve the integer program, and then look for less than what it found until there is nothing: now and then HiGHS'
    presolve loses the best solution."""
    starts = [*single_devices(problem), *pieces(problem)]
    if objective == "latency":
        starts.append(heft(problem).assignment)
    best = _least(problem, objective, starts)
    first = list(integer_programs(problem, objective, deadline, best[1]))
    best = _least(problem, objective, [best[0], *[s.assignment for s in first]])
    before = float("inf")
    while best[1] < before and monotonic() < deadline:
        before = best[1]
        less = integer_programs(problem, objective, deadline, before, below=before)
        best = _least(problem, objective, [best[0], *[s.assignment for s in less]])
    assignment, value = best
    if assignment is None:
        return None
    optimal = all(s.optimal or s.infeasible for s in first)
    bound = min((s.bound for s in first if not s.infeasible), default=value)
    return Split(assignment, value, value if optimal else min(bound, value), "integer program")


def _least(problem: Problem, objective: Objective, found: Sequence[Ints | None]) -> tuple[Ints | None, float]:
    """The cheapest assignment within the limits, and its cost; (None, inf) if there is none."""
    best, value = None, float("inf")
    for assignment in found:
        if assignment is not None and is_feasible(problem, assignment):
            seconds = cost(problem, assignment, objective)
            if seconds < value:
                best, value = assignment, seconds
    return best, value


def _reason(problem: Problem, deadline: float) -> NoSplit:
    if not np.isfinite(problem.limits).any():
        return NoSplit(0.0, True)
    groups = None if problem.nodes <= 4 * GROUPS else fuse(problem, GROUPS)
    least = solve_program(problem, "memory", groups=groups, time_limit=max(deadline - monotonic(), 10.0), gap=1e-4)
    if least.assignment is None:
        return NoSplit(least.bound, False)
    factor = float((peaks(problem, least.assignment) / problem.limits).max())
    return NoSplit(factor, True)
