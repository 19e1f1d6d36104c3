"""Splits of graphs that are too large for the integer program alone.

serial      the linear relaxation, rounded and improved by moves; where the gap is not small, the integer program on
            fused nodes, improved likewise
latency     the relaxation with cuts, rounded by an integer program; HEFT, also within the limits of memory and in the
            order of the graph, single devices and pieces of the order; annealing from the best, then climbing
throughput  branch and bound over the places of the cuts between stages; where that takes too long, the integer program
            on fused nodes, climbing and annealing besides
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.anneal import anneal
from graphopt.passes.partitioning.bounds import lower_bound, path_bound
from graphopt.passes.partitioning.climb import climb
from graphopt.passes.partitioning.coarse import fuse
from graphopt.passes.partitioning.evaluation import cost, is_feasible, overrun
from graphopt.passes.partitioning.latency_relaxation import MOST_NODES, LatencyRelaxation
from graphopt.passes.partitioning.problem import Ints, Objective, Problem
from graphopt.passes.partitioning.program import Solution, relax_program, solve_program
from graphopt.passes.partitioning.search import Search
from graphopt.passes.partitioning.stage_cuts import StageCuts
from graphopt.passes.partitioning.starts import ALL_ORDERS, heft, pieces, single_devices, stage_orders

GROUPS = 250
"""Groups of fused nodes for the integer program."""
SMALL_GAP = 0.01
"""The gap below which no more time is spent."""
LARGE = 3000
"""Nodes beyond which integer programs take too long."""
ROOMS = (1.0, 0.9, 0.75)


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


def search_split(problem: Problem, objective: Objective, seed: int, deadline: float) -> Split | None:
    """Return the best split that was found until a time, or None."""
    kind = {"serial": _Serial, "latency": _Latency, "throughput": _Throughput}[objective]
    return kind(problem, objective, seed, deadline).run()


def integer_programs(
    problem: Problem,
    objective: Objective,
    deadline: float,
    value: float,
    groups: Ints | None = None,
    gap: float = 0.0,
    *,
    below: float = np.inf,
) -> Iterable[Solution]:
    """The integer program; for a pipeline, one for each order of its stages. value: the cost of a known assignment.

    below: only what costs less is looked for.
    """
    orders = stage_orders(problem) if objective == "throughput" else [()]
    horizon = value if np.isfinite(value) else _horizon(problem)
    for position, order in enumerate(orders):
        left = max(deadline - monotonic(), 0.1) / (len(orders) - position)
        yield solve_program(
            problem, objective, order=order, horizon=horizon, groups=groups, time_limit=left, gap=gap, below=below
        )


def _horizon(problem: Problem) -> float:
    """A time by which any assignment ends."""
    work = np.where(np.isfinite(problem.seconds), problem.seconds, 0.0).max(axis=1).sum()
    moves = sum(float(problem.latency.max() + t.size * problem.per_byte.max()) for t in problem.tensors if t.moves)
    return float(work) + moves


class _Heuristic:
    """Keeps the best of what is offered."""

    def __init__(self, problem: Problem, objective: Objective, seed: int, deadline: float) -> None:
        self.problem, self.objective, self.seed = problem, objective, seed
        self.began, self.deadline = monotonic(), deadline
        self.best: Ints | None = None
        self.value = float("inf")
        self.method = ""
        self.bound = 0.0

    def run(self) -> Split | None:
        self.look()
        if self.best is None:
            return None
        return Split(self.best, self.value, min(self.bound, self.value), self.method)

    def look(self) -> None:
        """Offer assignments, and raise the bound."""
        raise NotImplementedError

    def at(self, share: float) -> float:
        """The time when a share of what there is has passed."""
        return self.began + share * (self.deadline - self.began)

    @property
    def is_done(self) -> bool:
        return self.best is not None and self.value - self.bound <= SMALL_GAP * self.value

    def offer(self, assignment: Ints | None, method: str) -> None:
        """Take an assignment if it is within the limits and better."""
        if assignment is None:
            return
        value = cost(self.problem, assignment, self.objective)
        if value < self.value and is_feasible(self.problem, assignment):
            self.best, self.value, self.method = assignment, value, method

    def starts(self) -> Iterator[tuple[Ints, str]]:
        able, rows = np.isfinite(self.problem.seconds), np.arange(self.problem.nodes)
        for start in single_devices(self.problem):
            yield start, "one device"
        for start in pieces(self.problem, 6 if self.problem.nodes > LARGE else 12):
            if able[rows, start].all():
                yield start, "pieces of the order"

    def move(self, start: Ints, until: float, method: str) -> None:
        """Improve by moves, towards the limits first."""
        search = Search(self.problem, start, self.seed)
        search.improve(until)
        self.offer(np.array(search.x, dtype=np.int64), method)

    def climb(self, until: float) -> None:
        if self.best is not None and monotonic() < until:
            improved = climb(self.problem, self.best, self.objective, until, self.seed)
            self.offer(improved, f"{self.method}, climbing")

    def fuse(self, until: float) -> Iterator[Ints]:
        """What the integer program on fused nodes finds. Where no nodes are fused, its bound counts."""
        groups = fuse(self.problem, GROUPS)
        bound = float("inf") if int(groups.max()) == self.problem.nodes - 1 else 0.0
        for solution in integer_programs(self.problem, self.objective, until, self.value, groups, SMALL_GAP / 2):
            bound = min(bound, float("inf") if solution.infeasible else solution.bound)
            if solution.assignment is not None:
                yield solution.assignment
        self.bound = max(self.bound, bound if np.isfinite(bound) else 0.0)


class _Serial(_Heuristic):
    def look(self) -> None:
        # Of a large graph the relaxation is nearly all of the work: rounded, it leaves little to improve.
        share = 0.9 if self.problem.nodes > LARGE else 0.6
        shares, self.bound = lower_bound(self.problem, self.objective, self.at(share))
        if not np.isfinite(self.bound):
            return
        if shares is not None:
            rounded = shares.argmax(axis=1)
            self.offer(rounded, "rounded relaxation")
            self.move(rounded, self.at(max(share + 0.1, 0.8)), "rounded relaxation, moves")
        if self.best is None or shares is None:
            self._move_starts()
        if not self.is_done and self.problem.nodes <= LARGE:
            for assignment in self.fuse(self.at(0.93)):
                self.offer(assignment, "integer program on fused nodes")
                self.move(assignment, self.deadline, "integer program on fused nodes, moves")

    def _move_starts(self) -> None:
        """From the cheapest start, and from the one that runs over least."""
        starts = list(self.starts())
        for start, name in starts:
            self.offer(start, name)
        least = min(starts, key=lambda s: overrun(self.problem, s[0]), default=None)
        cheapest = min(starts, key=lambda s: cost(self.problem, s[0], self.objective), default=None)
        for found in (least, cheapest):
            if found is not None:
                self.move(found[0], self.at(0.8), f"{found[1]}, moves")


class _Latency(_Heuristic):
    def look(self) -> None:
        relaxed = self._relax()
        if not np.isfinite(self.bound):
            return
        starts = [*self.starts(), *self._lists()]
        if relaxed is not None and relaxed.shares is not None:
            nearest = relaxed.shares.argmax(axis=1)
            starts.append((nearest, "rounded relaxation"))
            self.move(nearest, self.at(0.5), "rounded relaxation, moves")
            rounded = relaxed.round(self.at(0.6))
            if rounded is not None:
                starts.append((rounded, "rounded by integer program"))
        else:
            self._move_serial()
        for start, name in starts:
            self.offer(start, name)
        if self.is_done:
            return
        start, name = (self.best, self.method) if self.best is not None else min(starts, key=self._strained)
        self.offer(anneal(self.problem, start, self.objective, self.at(0.85), self.seed), f"{name}, annealing")
        self.climb(self.deadline)

    def _relax(self) -> LatencyRelaxation | None:
        """Raise the bound; return the tightened relaxation, unless the graph is too large for it."""
        self.bound = path_bound(self.problem)
        if self.problem.nodes <= MOST_NODES:
            relaxed = LatencyRelaxation(self.problem)
            relaxed.tighten(self.at(0.4))
            self.bound = max(self.bound, relaxed.bound)
            if relaxed.shares is not None or not np.isfinite(self.bound):
                return relaxed
        _, bound = relax_program(self.problem, "work", self.at(0.3) - monotonic())
        self.bound = max(self.bound, bound)
        return None

    def _move_serial(self) -> None:
        """What is good one thing at a time is a start, too: overlapping only shortens it."""
        shares, _ = relax_program(self.problem, "serial", self.at(0.65) - monotonic())
        if shares is not None:
            self.move(shares.argmax(axis=1), self.at(0.75), "rounded relaxation of the sum, moves")

    def _lists(self) -> Iterator[tuple[Ints, str]]:
        for ranked in (True, False):
            yield heft(self.problem, ranked=ranked)[0], "HEFT"
            for room in ROOMS if self.problem.is_bounded else ():
                yield heft(self.problem, self.problem.limits * room, ranked=ranked)[0], "HEFT within memory"

    def _strained(self, start: tuple[Ints, str]) -> float:
        return cost(self.problem, start[0], self.objective) * (1 + 5 * overrun(self.problem, start[0]))


class _Throughput(_Heuristic):
    def look(self) -> None:
        for start, name in self.starts():
            self.offer(start, name)
        cuts = StageCuts(self.problem, self._offer_cut)
        self._search(cuts, self.at(0.7))
        if self.is_done or not np.isfinite(self.bound):
            return
        if not self.bound:
            _, self.bound = lower_bound(self.problem, self.objective, self.at(0.75))
        if self.problem.nodes <= LARGE:
            for assignment in self.fuse(self.at(0.8)):
                self.offer(assignment, "integer program on fused nodes")
        self.climb(self.at(0.85))
        if self.best is not None:
            walked = anneal(self.problem, self.best, self.objective, self.at(0.9), self.seed)
            self.offer(walked, f"{self.method}, annealing")
        self._search(cuts, self.deadline)

    def _offer_cut(self, assignment: Ints) -> float:
        self.offer(assignment, "cuts between stages")
        return self.value

    def _search(self, cuts: StageCuts, until: float) -> None:
        bound = cuts.run(until, self.value)
        if self.problem.devices <= ALL_ORDERS:
            self.bound = max(self.bound, bound)
