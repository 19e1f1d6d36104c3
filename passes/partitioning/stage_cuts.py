"""Where to cut a graph into the stages of a pipeline: branch and bound over how much lies before each cut.

What runs in the first k stages is a set A_k that holds all that its nodes depend on. Let m be a measure of nodes, and
before(i), after(i) the measure of i with all that it depends on, or that depends on it. Then m(A_k) ∈ [α, β] says

    i ∉ A_k  if before(i) > β,        i ∈ A_k  if m(all) − after(i) < α,

so a box of such intervals leaves each node some stages, all but one only to those beside a cut. What is left of the
edges is not looked at: the busiest stage takes, by duality, with work c, weights w and memory M, at least

    Σ_i min_{k left to i} (λ_k c[i, k] + μ_k w[i]) − Σ_k μ_k M_k     for any λ ≥ 0 with Σ λ = 1, and any μ ≥ 0.

Boxes are halved, that with the least bound first, which holds for all splits. Where few nodes are left to place, an
integer program with the edges places them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.problem import Floats, Ints, Problem
from graphopt.passes.partitioning.program import solve_program
from graphopt.passes.partitioning.reachability import before_and_after
from graphopt.passes.partitioning.stage_program import place_stages
from graphopt.passes.partitioning.starts import stage_orders

FIRST, LATER = 60, 20
"""Steps of ascent of the multipliers: from nothing, and from those of the box that was halved."""
FADE = 0.93
FEW = 100
"""Nodes to place in the integer program of a box."""
PROGRAM_SECONDS = 2.0


@dataclass(frozen=True)
class _Box:
    """The devices in order of stages; the intervals; multipliers of work and memory, and the bound that they give;
    whether `place_stages` raised it."""

    order: Ints
    low: Floats
    high: Floats
    shares: Floats
    prices: Floats
    bound: float = 0.0
    placed: bool = False


class StageCuts:
    """The search, which can be continued. offer: tries an assignment, and returns the least cost known so far."""

    def __init__(self, problem: Problem, offer: Callable[[Ints], float]) -> None:
        self.problem, self._offer = problem, offer
        self._weight = np.zeros(problem.nodes)
        for weight in problem.weights:
            self._weight[weight.consumers[0]] += weight.size
        work = np.where(np.isfinite(problem.seconds), problem.seconds, 0.0).max(axis=1)
        measure = work / max(float(work.sum()), 1e-300) + self._weight / max(float(self._weight.sum()), 1.0)
        self._total = float(measure.sum())
        self._before, self._after = before_and_after(problem, measure)
        self._boxes: list[tuple[float, int, _Box]] = []
        self._count = 0
        self._least = np.inf  # of the boxes whose integer program was solved
        self._value = np.inf
        cuts, even = problem.devices - 1, np.full(problem.devices, 1.0 / problem.devices)
        for order in stage_orders(problem):
            low, high = np.zeros(cuts), np.full(cuts, self._total)
            root = self._raise(_Box(np.array(order), low, high, even, np.zeros(problem.devices)), FIRST)
            if root is not None:
                self._add(root)

    def run(self, until: float, value: float) -> float:
        """Search until a time, given the cost of a known split; return a lower bound of any split's cost."""
        self._value = value
        while self._boxes and monotonic() < until and self._boxes[0][0] < self._value:
            _, _, box = heappop(self._boxes)
            work = self._work(box)
            if box.placed:
                self._close(box, work, until)
            elif np.count_nonzero(np.isfinite(work).sum(axis=1) > 1) <= FEW:
                self._place(box, work)
            else:
                self._halve(box)
        return min(self._least, self._boxes[0][0] if self._boxes else np.inf)

    def _halve(self, box: _Box) -> None:
        self._try(box)
        cut = int((box.high - box.low).argmax())
        middle = (box.low[cut] + box.high[cut]) / 2
        for side in (0, 1):
            low, high = box.low.copy(), box.high.copy()
            (high if side == 0 else low)[cut] = middle
            low, high = np.maximum.accumulate(low), np.minimum.accumulate(high[::-1])[::-1]
            if (low <= high).all():
                raised = self._raise(replace(box, low=low, high=high, placed=False), LATER)
                if raised is not None:
                    self._add(raised)

    def _try(self, box: _Box) -> None:
        """Cut in the middle of the box, either as early or as late as the nodes beside the cut allow."""
        middle = (box.low + box.high) / 2
        for stage in (
            (self._before[:, None] > middle).sum(axis=1),
            (self._total - self._after[:, None] >= middle).sum(axis=1),
        ):
            self._value = min(self._value, self._offer(box.order[stage]))

    def _place(self, box: _Box, work: Floats) -> None:
        """Raise the bound by the edges between the nodes that are left."""
        stages, bound = place_stages(
            work, self._weight, self.problem.limits[box.order], self.problem.edges, PROGRAM_SECONDS
        )
        if stages is not None:
            self._value = min(self._value, self._offer(box.order[stages]))
        self._add(replace(box, bound=max(box.bound, bound), placed=True))

    def _close(self, box: _Box, work: Floats, until: float) -> None:
        """Solve the integer program of a box, which knows all; or halve it, where that takes too long."""
        seconds = np.full_like(work, np.inf)
        seconds[:, box.order] = work
        left = min(PROGRAM_SECONDS, max(until - monotonic(), 0.1))
        problem = replace(self.problem, seconds=seconds)
        solution = solve_program(problem, "throughput", order=box.order.tolist(), time_limit=left)
        if solution.assignment is not None:
            self._value = min(self._value, self._offer(solution.assignment))
        if solution.infeasible:
            return
        box = replace(box, bound=max(box.bound, solution.bound))
        if solution.optimal:
            self._least = min(self._least, box.bound)
        else:
            self._halve(box)

    def _add(self, box: _Box) -> None:
        if box.bound < self._value:
            heappush(self._boxes, (box.bound, self._count, box))
            self._count += 1

    def _work(self, box: _Box) -> Floats:
        """The seconds of each node in each stage, inf where the box does not leave it: [n, D]."""
        slack = 1e-9 * self._total
        work = self.problem.seconds[:, box.order]
        for cut, (low, high) in enumerate(zip(box.low, box.high), start=1):
            work[self._before > high + slack, :cut] = np.inf
            work[self._total - self._after < low - slack, cut:] = np.inf
        return work

    def _raise(self, box: _Box, steps: int) -> _Box | None:
        """The box with a bound as large as some steps of ascent make it; None if it leaves some node no stage."""
        work, limits = self._work(box), self.problem.limits[box.order]
        if not np.isfinite(work).any(axis=1).all():
            return None
        limited = np.isfinite(limits)
        memory = np.where(limited, limits, 1.0)
        rows, stages = np.arange(len(work)), len(memory)
        shares, prices = box.shares, box.prices
        best, chosen, step = box.bound, (shares, prices), 0.5
        for _ in range(steps):
            terms = shares * work + prices * self._weight[:, None]
            stage = terms.argmin(axis=1)
            bound = float(terms[rows, stage].sum() - (prices * memory)[limited].sum())
            if bound > best:
                best, chosen = bound, (shares, prices)
            load = np.bincount(stage, work[rows, stage], minlength=stages)
            held = np.bincount(stage, self._weight, minlength=stages)
            shares = shares * np.exp(step * (load * stages / max(float(load.sum()), 1e-300) - 1) / 2)
            shares /= shares.sum()
            over = np.where(limited, held / memory - 1, 0.0)
            prices = np.maximum(prices + 0.05 * step * stages * over * float(load.max()) / memory, 0.0)
            step *= FADE
        return replace(box, shares=chosen[0], prices=chosen[1], bound=best)
