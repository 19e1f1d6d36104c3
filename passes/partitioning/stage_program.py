"""The integer program of a few nodes beside the cuts of a pipeline, all others placed: work, weights and edges alone.

y[i, k] = 1 if node i is in one of the first k stages:  y[i, k] ≤ y[i, k + 1],  and y[j, k] ≤ y[i, k] for i → j.
Node i takes c[i, k] (y[i, k + 1] − y[i, k]) seconds in stage k, and its weights their bytes likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.passes.partitioning.problem import Floats, Ints
from graphopt.passes.partitioning.rows import Rows, Terms


def place_stages(
    work: Floats,
    weight: Floats,
    memory: Floats,
    edges: Sequence[tuple[int, int]],
    time_limit: float,
) -> tuple[Ints | None, float]:
    """Return the stage of each node, and a lower bound of the seconds of the busiest stage; inf if nothing fits.

    work: [n, D], inf where a node may not be. weight: bytes [n]. memory: of the stages [D].
    """
    return _StageProgram(work, weight, memory).solve(edges, time_limit)


class _StageProgram:
    def __init__(self, work: Floats, weight: Floats, memory: Floats) -> None:
        self.work, self.weight, self.memory = work, weight, memory
        self.rows = Rows()
        self.scale = float(work[np.isfinite(work)].max(initial=1e-15))
        stages = work.shape[1]
        possible = np.isfinite(work)
        self.free = possible.sum(axis=1) > 1
        never, always = self.rows.variable(upper=0.0), self.rows.variable()
        self.rows.add([(always, 1.0)], 1.0, 1.0)
        beyond = np.arange(stages + 1) > possible.argmax(axis=1)[:, None]
        self.inside = np.where(beyond, always, never)
        for node in np.flatnonzero(self.free).tolist():
            self.inside[node, 1:stages] = [self.rows.variable(whole=True) for _ in range(stages - 1)]
        for node in np.flatnonzero(self.free).tolist():
            for stage in range(stages):
                self.rows.add(self._here(node, stage), 0.0, 1.0 if possible[node, stage] else 0.0)

    def _here(self, node: int, stage: int) -> Terms:
        return [(int(self.inside[node, stage + 1]), 1.0), (int(self.inside[node, stage]), -1.0)]

    def _sum(self, stage: int, amounts: Floats) -> tuple[float, Terms]:
        """What placed nodes bring to a stage, and the terms of the others."""
        here = np.isfinite(self.work[:, stage])
        terms = [
            (v, sign * float(amounts[i]))
            for i in np.flatnonzero(here & self.free).tolist()
            for v, sign in self._here(i, stage)
        ]
        return float(amounts[here & ~self.free].sum()), terms

    def solve(self, edges: Sequence[tuple[int, int]], time_limit: float) -> tuple[Ints | None, float]:
        rows, stages = self.rows, self.work.shape[1]
        end = rows.variable(1.0, upper=np.inf)
        for stage in range(stages):
            placed, terms = self._sum(stage, self.work[:, stage] / self.scale)
            rows.add([*terms, (end, -1.0)], high=-placed)
            if np.isfinite(self.memory[stage]):
                placed, terms = self._sum(stage, self.weight / self.memory[stage])
                rows.add(terms, high=1.0 - placed)
        for before, after in edges:
            if self.free[before] or self.free[after]:
                for stage in range(1, stages):
                    rows.add([(int(self.inside[before, stage]), 1.0), (int(self.inside[after, stage]), -1.0)], 0.0)
        outcome = rows.solve(time_limit)
        if outcome.values is None:
            return None, np.inf if outcome.infeasible else 0.0
        found = stages - np.rint(outcome.values[self.inside[:, 1:]]).astype(np.int64).sum(axis=1)
        return found, outcome.bound * self.scale
