"""A linear program under construction: variables with costs, rows with bounds; solved by SciPy's HiGHS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.passes.partitioning.problem import Floats

Terms = list[tuple[int, float]]
"""A linear expression: (variable, coefficient). A variable may stand in it several times."""


@dataclass(frozen=True)
class Outcome:
    """What HiGHS says: the values or None, a lower bound of the objective, and how it ended."""

    values: Floats | None
    bound: float
    optimal: bool
    infeasible: bool


class Rows:
    """Minimize Σ cost · variable, every variable between 0 and its upper bound, subject to rows."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self._whole: list[bool] = []
        self._upper: list[float] = []
        self._low: list[float] = []
        self._high: list[float] = []
        self._row: list[int] = []
        self._column: list[int] = []
        self._data: list[float] = []

    def variable(self, cost: float = 0.0, *, whole: bool = False, upper: float = 1.0) -> int:
        """Add a variable; return its number."""
        self.costs.append(cost)
        self._whole.append(whole)
        self._upper.append(upper)
        return len(self.costs) - 1

    def forbid(self, variable: int) -> None:
        """Keep a variable at zero."""
        self._upper[variable] = 0.0

    def add(self, terms: Terms, low: float = -np.inf, high: float = np.inf) -> None:
        """Add the row low ≤ terms ≤ high."""
        row = len(self._low)
        self._row += [row] * len(terms)
        self._column += [variable for variable, _ in terms]
        self._data += [coefficient for _, coefficient in terms]
        self._low.append(low)
        self._high.append(high)

    def cut_off(self, most: float) -> None:
        """Let the objective be at most so much."""
        if np.isfinite(most):
            self.add([(variable, cost) for variable, cost in enumerate(self.costs) if cost], high=most)

    def largest(self, parts: list[int]) -> int:
        """A variable that is at least each of `parts`; the only one itself."""
        distinct = list(dict.fromkeys(parts))
        if len(distinct) == 1:
            return distinct[0]
        most = self.variable()
        for part in distinct:
            self.add([(most, 1.0), (part, -1.0)], 0.0)
        return most

    def solve(self, time_limit: float, gap: float = 0.0, *, relaxed: bool = False, presolve: bool = True) -> Outcome:
        """Solve it. relaxed: let every variable be fractional. gap: relative, at which to stop."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix

        shape = (len(self._low), len(self.costs))
        matrix = csr_matrix((self._data, (self._row, self._column)), shape=shape)  # adds up what stands twice
        whole = np.zeros(shape[1]) if relaxed else np.array(self._whole, dtype=float)
        options: dict[str, Any] = {"time_limit": max(time_limit, 0.01), "mip_rel_gap": gap, "presolve": presolve}
        done = milp(
            np.array(self.costs),
            integrality=whole,
            bounds=Bounds(np.zeros(shape[1]), np.array(self._upper)),
            constraints=LinearConstraint(matrix, np.array(self._low), np.array(self._high)),
            options=options,
        )
        bound = done.fun if relaxed and done.status == 0 else getattr(done, "mip_dual_bound", None)
        known = float(bound) if bound is not None and np.isfinite(bound) else 0.0
        return Outcome(done.x, known, done.status == 0, done.status == 2)
