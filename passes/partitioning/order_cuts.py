"""Rows that tighten the relaxation of the latency: a device runs one node after another.

Between the end of a and the start of b, if a ≺ b, each device d has all its nodes between them to run,

    start[b] ≥ end[a] + Σ_{a ≺ i ≺ b} c[i, d] x[i, d],

and, as it keeps to the order of the graph, where b itself is on d all that comes before b, related to it or not:

    … + Σ_{a ≺ i < b, i ⊀ b} c[i, d] (x[i, d] + x[b, d] − 1),        for a on d likewise with all that comes after a.

The source of all nodes may stand for a, the end for b. What a solution violates is found for all pairs at once by a
product of matrices, with R the transitive closure:  R diag(c x) R  at (a, b).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.passes.partitioning.problem import Floats
from graphopt.passes.partitioning.program import Program
from graphopt.passes.partitioning.reachability import ancestors
from graphopt.passes.partitioning.rows import Terms

VIOLATED = 1e-4
"""A row is added where it is violated by this share of the end."""
MOST_TERMS = 200_000
"""Terms that are added at once."""

Matrix = NDArray[np.float32]


class OrderCuts:
    """The rows for a program of the objective "latency" without a horizon. Positions n and n + 1 are source and end."""

    def __init__(self, program: Program) -> None:
        self.program, self.problem = program, program.problem
        n = self.problem.nodes
        self.seconds = np.vstack([self.problem.seconds, np.zeros((2, self.problem.devices))]) / program.scale
        self.seconds[~np.isfinite(self.seconds)] = 0.0
        related = np.zeros((n + 2, n + 2), dtype=bool)
        related[:n, :n] = np.unpackbits(ancestors(self.problem), axis=1, count=n).T
        np.fill_diagonal(related, False)
        related[n, :n] = related[: n + 1, n + 1] = True
        self.related = related
        self.ordered = np.zeros_like(related)
        self.ordered[:n, :n] = np.triu(np.ones((n, n), dtype=bool), 1)

    def add(self, values: Floats) -> int:
        """Add rows that a solution violates, the most violated first; return how many."""
        program, n = self.program, self.problem.nodes
        x = np.zeros((n + 2, self.problem.devices))
        x[:n] = np.where(program.x[:n] >= 0, values[program.x[:n]], 0.0)
        end = float(values[program.end])
        starts = np.append(values[program.starts], [0.0, end])
        slack = starts[None, :] - (starts + (self.seconds * x).sum(axis=1))[:, None]
        found: list[tuple[float, int, int, int, bool]] = []
        for device in range(self.problem.devices):
            for forward in (False, True):
                over = np.where(self.related, self._between(device, x[:, device], forward) - slack, -np.inf)
                best = over.argmax(axis=0) if forward else over.argmax(axis=1)
                for k, other in enumerate(best.tolist()):
                    a, b = (other, k) if forward else (k, other)
                    if over[a, b] > VIOLATED * end:
                        found.append((float(over[a, b]), device, a, b, forward))
        added = terms = 0
        for _, device, a, b, forward in sorted(found, reverse=True):
            if terms > MOST_TERMS:
                break
            terms += self._row(device, a, b, forward, x[:, device])
            added += 1
        return added

    def _between(self, device: int, x: Floats, forward: bool) -> Matrix:
        """What a device has to do between each a and b; forward: with what b has to wait for if it is there."""
        work, share = self.seconds[:, device].astype(np.float32), x.astype(np.float32)
        related = self.related.astype(np.float32)
        both = np.where(self.ordered, np.maximum(share[:, None] + share[None, :] - 1, 0), 0)
        if forward:
            return np.asarray((related * work) @ np.where(self.related, share[:, None], both))
        return np.asarray(np.where(self.related, share[None, :], both) @ (related * work[:, None]))

    def _row(self, device: int, a: int, b: int, forward: bool, x: Floats) -> int:
        program, n, work = self.program, self.problem.nodes, self.seconds[:, device]
        inside = self.related[a] & self.related[:, b]
        if forward:
            on, beside = b, self.related[a] & ~self.related[:, b] & self.ordered[:, b]
        else:
            on, beside = a, self.related[:, b] & ~self.related[a] & self.ordered[a]
        beside = beside & (x + x[on] > 1)
        terms: Terms = [(program.end if b == n + 1 else program.starts[b], 1.0)]
        if a != n:
            terms += [(program.starts[a], -1.0), *self._terms(a, range(self.problem.devices))]
        for node in np.flatnonzero(inside | beside):
            terms += self._terms(int(node), (device,))
        together = float(work[beside].sum())
        if together:
            terms.append((int(program.x[on, device]), -together))
        program.rows.add(terms, -together)
        return len(terms)

    def _terms(self, node: int, devices: range | tuple[int, ...]) -> Terms:
        """−(seconds of a node on some devices)."""
        return [
            (int(self.program.x[node, d]), -float(self.seconds[node, d]))
            for d in devices
            if self.program.x[node, d] >= 0
        ]
