"""The relaxation of the latency, tightened by cuts, and rounded by what is left of its integer program."""

from __future__ import annotations

from time import monotonic

import numpy as np

from graphopt.passes.partitioning.order_cuts import OrderCuts
from graphopt.passes.partitioning.problem import Floats, Ints, Problem
from graphopt.passes.partitioning.program import Program

MOST_NODES = 3000
"""Beyond, matrices of all pairs of nodes take too much."""
GAIN = 1e-4
"""Cuts end when they raise the bound by less than this share."""
DECIDED = 1 - 1e-4
"""Nodes with such a share on one device stay there in the rounding."""
GAP = 0.005


class LatencyRelaxation:
    """shares: of devices in each node [n, D], None before there is a solution; bound: of any assignment's cost, inf
    if there is none."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.program = Program(problem, "latency")
        self.shares: Floats | None = None
        self.bound = 0.0

    def tighten(self, until: float) -> None:
        """Solve, add the cuts that the solution violates, and so on."""
        cuts = OrderCuts(self.program)
        while (left := until - monotonic()) > 0:
            outcome = self.program.rows.solve(left, relaxed=True)
            if outcome.infeasible:
                self.bound = float("inf")
            if not outcome.optimal or outcome.values is None:
                return
            before, self.bound = self.bound, max(self.bound, outcome.bound * self.program.scale)
            self.shares = self.program.shares(outcome.values)
            if not cuts.add(outcome.values) or self.bound - before < GAIN * self.bound:
                return

    def round(self, until: float) -> Ints | None:
        """Leave the nodes that the relaxation places where they are, and place the others as well as time allows.

        Nothing can be solved after this.
        """
        if self.shares is None:
            return None
        for node, device in zip(*np.nonzero(self.shares >= DECIDED)):
            for other, variable in enumerate(self.program.x[node]):
                if variable >= 0 and other != device:
                    self.program.rows.forbid(int(variable))
        values = self.program.rows.solve(until - monotonic(), GAP).values
        return None if values is None else self.program.assignment(values)
