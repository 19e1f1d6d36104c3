"""From a problem to an assignment with a proven gap.

up to 40 nodes              the integer program, exact
two devices, no limit       a minimum cut, for the objective "serial"
otherwise                   the linear relaxation bounds the cost and, rounded, gives a start beside single devices,
                            pieces of the order and HEFT; moves improve the best of them; the integer program on
                            fused nodes gets what time is left if the gap is not small
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.bounds import lower_bound
from graphopt.passes.partitioning.climb import climb
from graphopt.passes.partitioning.coarse import fuse
from graphopt.passes.partitioning.evaluation import cost, is_feasible, peaks
from graphopt.passes.partitioning.minimum_cut import is_minimum_cut, minimum_cut
from graphopt.passes.partitioning.problem import Ints, Objective, Problem
from graphopt.passes.partitioning.program import Solution, solve_program
from graphopt.passes.partitioning.search import Search
from graphopt.passes.partitioning.starts import heft, pieces, single_devices, stage_orders

EXACT = 40
"""Nodes up to which the integer program is solved to the end."""
CUT = 400
"""Nodes up to which networkx finds a minimum cut; beyond, the linear relaxation finds the same one sooner."""
GROUPS = 250
"""Groups of fused nodes for the integer program."""
SMALL_GAP = 0.01
"""The gap below which no more time is spent."""


@dataclass(frozen=True)
class Split:
    """An assignment: its cost in seconds, a lower bound of any assignment's cost, and how it was found."""

    assignment: Ints
    cost: float
    bound: float
    method: str

    @property
    def gap(self) -> float:
        """How much dearer than the bound, as a share of the cost."""
        return 0.0 if self.cost <= self.bound else (self.cost - self.bound) / self.cost


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
    found = (
        _exact(problem, objective, deadline)
        if problem.nodes <= EXACT
        else _Heuristic(problem, objective, seed, deadline).run()
    )
    return _reason(problem, deadline) if found is None else found


def _exact(problem: Problem, objective: Objective, deadline: float) -> Split | None:
    starts = [x for x in (*single_devices(problem), *pieces(problem)) if is_feasible(problem, x)]
    if objective == "latency":
        starts += [x for x in (heft(problem)[0],) if is_feasible(problem, x)]
    best = min(starts, key=lambda x: cost(problem, x, objective), default=None)
    value = float("inf") if best is None else cost(problem, best, objective)
    bound = float("inf")
    optimal = True
    for solution in _programs(problem, objective, deadline, value):
        optimal &= solution.optimal or solution.infeasible
        bound = bound if solution.infeasible else min(bound, solution.bound)
        if solution.assignment is not None:
            found = cost(problem, solution.assignment, objective)
            if found < value:
                best, value = solution.assignment, found
    if best is None:
        return None
    return Split(best, value, value if optimal else min(bound, value), "integer program")


def _programs(
    problem: Problem, objective: Objective, deadline: float, value: float, groups: Ints | None = None, gap: float = 0.0
) -> Iterable[Solution]:
    """The integer program; for a pipeline, one for each order of its stages."""
    orders = stage_orders(problem) if objective == "throughput" else [()]
    horizon = value if np.isfinite(value) else _horizon(problem)
    for position, order in enumerate(orders):
        left = max(deadline - monotonic(), 0.1) / (len(orders) - position)
        yield solve_program(problem, objective, order=order, horizon=horizon, groups=groups, time_limit=left, gap=gap)


def _horizon(problem: Problem) -> float:
    """A time by which any assignment ends."""
    work = np.where(np.isfinite(problem.seconds), problem.seconds, 0.0).max(axis=1).sum()
    moves = sum(float(problem.latency.max() + t.size * problem.per_byte.max()) for t in problem.tensors if t.moves)
    return float(work) + moves


class _Heuristic:
    def __init__(self, problem: Problem, objective: Objective, seed: int, deadline: float) -> None:
        self.problem, self.objective, self.seed, self.deadline = problem, objective, seed, deadline
        self.began = monotonic()
        self.best: Ints | None = None
        self.value = float("inf")
        self.method = ""

    def run(self) -> Split | None:
        left = self.deadline - self.began
        shares, bound = lower_bound(self.problem, self.objective, self.began + 0.6 * left)
        if not np.isfinite(bound):
            return None
        if shares is not None:
            rounded = shares.argmax(axis=1)
            self._offer(rounded, "rounded relaxation")
            self._search(rounded, self.began + 0.8 * left, "relaxation and moves")
        starts = self._starts()
        for start, name in starts:
            self._offer(start, name)
        if self.best is None or shares is None or self.objective != "serial":
            for start, name in self._promising(starts):
                self._search(start, self.began + 0.8 * left, f"{name} and moves")
        if self.objective != "serial" and self.best is not None:
            until = monotonic() + 0.5 * (self.deadline - monotonic())
            self._offer(climb(self.problem, self.best, self.objective, until, self.seed), f"{self.method} and climbing")
        if self._gap(bound) > SMALL_GAP and self.objective != "latency" and self.problem.nodes <= 12 * GROUPS:
            self._fused()
        if self.best is None:
            return None
        return Split(self.best, self.value, min(bound, self.value), self.method)

    def _gap(self, bound: float) -> float:
        return 1.0 if self.best is None else (self.value - bound) / self.value

    def _offer(self, assignment: Ints, method: str) -> None:
        value = cost(self.problem, assignment, self.objective)
        if value < self.value and is_feasible(self.problem, assignment):
            self.best, self.value, self.method = assignment, value, method

    def _search(self, start: Ints, until: float, method: str) -> None:
        search = Search(self.problem, start, self.seed)
        search.improve(until)
        self._offer(np.array(search.x, dtype=np.int64), method)

    def _starts(self) -> list[tuple[Ints, str]]:
        problem = self.problem
        found = [(x, "one device") for x in single_devices(problem)]
        able = np.isfinite(problem.seconds)
        rows = np.arange(problem.nodes)
        found += [(x, "pieces") for x in pieces(problem, 6 if problem.nodes > 2000 else 12) if able[rows, x].all()]
        if self.objective == "latency":
            found.append((heft(problem)[0], "HEFT"))
        return found

    def _promising(self, starts: list[tuple[Ints, str]]) -> list[tuple[Ints, str]]:
        """The best start, and the one that runs over least."""
        if not starts:
            return []
        by_cost = min(starts, key=lambda s: cost(self.problem, s[0], "serial"))
        by_excess = min(starts[:64], key=lambda s: Search(self.problem, s[0]).excess())
        return [by_excess, by_cost]

    def _fused(self) -> None:
        groups = fuse(self.problem, GROUPS)
        until = monotonic() + 0.7 * (self.deadline - monotonic())
        for solution in _programs(self.problem, self.objective, until, self.value, groups, SMALL_GAP / 2):
            if solution.assignment is None:
                continue
            self._offer(solution.assignment, "fused integer program")
            if self.objective == "serial":
                self._search(solution.assignment, self.deadline, "fused integer program and moves")
            elif self.best is not None:
                improved = climb(self.problem, self.best, self.objective, self.deadline, self.seed)
                self._offer(improved, f"{self.method} and climbing")


def _reason(problem: Problem, deadline: float) -> NoSplit:
    if not np.isfinite(problem.limits).any():
        return NoSplit(0.0, True)
    groups = None if problem.nodes <= 4 * GROUPS else fuse(problem, GROUPS)
    least = solve_program(problem, "memory", groups=groups, time_limit=max(deadline - monotonic(), 10.0), gap=1e-4)
    if least.assignment is None:
        return NoSplit(least.bound, False)
    factor = float((peaks(problem, least.assignment) / problem.limits).max())
    return NoSplit(factor, True)
