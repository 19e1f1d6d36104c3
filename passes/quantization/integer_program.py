"""Choices as an integer program, solved by HiGHS (`scipy.optimize.milp`).

min c·x   over x in {0, 1}ⁿ   with   low ≤ A x ≤ high
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SCALE = 1e4
"""The largest cost is brought to this, since the solver takes solutions that are 10⁻⁶ apart for equally good."""

ROUNDING = 1e-9
"""Rows are met up to this share of their largest coefficient."""


@dataclass
class IntegerProgram:
    """A program that is put together step by step.

    >>> program = IntegerProgram()
    >>> a, b = program.variable(-2.0), program.variable(-3.0)
    >>> program.constrain({a: 1.0, b: 1.0}, high=1.0)
    >>> program.solve()
    [0, 1]
    """

    costs: list[float] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def variable(self, cost: float = 0.0) -> int:
        """Add a variable and return its number."""
        self.costs.append(cost)
        return len(self.costs) - 1

    def constrain(self, terms: Mapping[int, float], low: float = -math.inf, high: float = math.inf) -> None:
        """Add a row: low ≤ Σ terms[i]·x[i] ≤ high."""
        self.rows.append((dict(terms), low, high))

    def solve(self) -> list[int] | None:
        """Return the numbers of a best solution; None if no solution meets the rows."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import lil_matrix

        count = len(self.costs)
        rows = [row for row in self.rows if any(row[0].values())]
        if not all(low <= 0.0 <= high for terms, low, high in self.rows if not any(terms.values())):
            return None
        if not count:
            return []
        matrix = lil_matrix((len(rows), count))
        lows, highs = np.empty(len(rows)), np.empty(len(rows))
        for index, (terms, low, high) in enumerate(rows):
            size = max(map(abs, terms.values()))
            for variable, factor in terms.items():
                matrix[index, variable] = factor / size
            lows[index], highs[index] = low / size - ROUNDING, high / size + ROUNDING
        costs = np.asarray(self.costs, dtype=np.float64)
        largest = np.abs(costs).max() or 1.0
        constraints = [LinearConstraint(matrix.tocsr(), lows, highs)] if rows else []
        found = milp(
            costs * (SCALE / largest),
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        return None if found.x is None else [round(x) for x in found.x]
