"""Simulated annealing, for the objectives that no move changes locally.

Trials move a node with a run of its neighbours on the same device, or swap two nodes; half of them begin on the
critical path, or on the fullest device. What runs over its memory counts as dearer, so the way may lead through it.
"""

from __future__ import annotations

import math
import random
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.climb import critical_path
from graphopt.passes.partitioning.evaluation import busy_seconds, cost
from graphopt.passes.partitioning.problem import Ints, Objective, Problem
from graphopt.passes.partitioning.search import Search

HOT, COLD = 0.01, 0.0001
"""Temperatures at the start and in the end, as shares of the cost."""
PENALTY = 20.0
"""How much dearer what runs over by all of a limit is, as a multiple of the cost."""
LENGTHS = (1, 1, 1, 2, 4, 8, 16, 32)
REFOCUS = 50


class Annealing:
    """A walk from a start."""

    def __init__(self, problem: Problem, start: Ints, objective: Objective, seed: int = 0) -> None:
        self.problem, self.objective = problem, objective
        self.search = Search(problem, start, seed)
        self.draw = random.Random(seed)
        self.best: Ints | None = None
        self.best_value = math.inf
        self._able = np.isfinite(problem.seconds).tolist()
        self._neighbours: list[list[int]] = [[] for _ in range(problem.nodes)]
        for a, b in problem.edges:
            self._neighbours[a].append(b)
            self._neighbours[b].append(a)
        self._stored = [i for i in range(problem.nodes) if problem.stored[i]]

    def run(self, deadline: float) -> Ints | None:
        """Walk until a time; return the best assignment within the limits, or None."""
        began = monotonic()
        current = self._value()
        focus: list[int] = []
        step = 0
        while (now := monotonic()) < deadline:
            if step % REFOCUS == 0:
                focus = self._focus()
            step += 1
            moves = self._moves(focus)
            if not moves:
                continue
            back = [(node, self.search.x[node]) for node, _ in moves]
            for node, device in moves:
                self.search.move(node, device)
            found = self._value()
            share = (now - began) / max(deadline - began, 1e-9)
            temperature = abs(current) * HOT * (COLD / HOT) ** share if math.isfinite(current) else math.inf
            if found <= current or self.draw.random() < math.exp(-(found - current) / temperature):
                current = found
            else:
                for node, device in reversed(back):
                    self.search.move(node, device)
        return self.best

    def _value(self) -> float:
        value = cost(self.problem, self.search.x, self.objective)
        excess = self.search.excess()
        if not excess and value < self.best_value:
            self.best, self.best_value = np.array(self.search.x, dtype=np.int64), value
        return value * (1 + PENALTY * excess)

    def _focus(self) -> list[int]:
        x = self.search.x
        if self.objective == "latency":
            return critical_path(self.problem, np.array(x))
        fullest = int(busy_seconds(self.problem, x).argmax())
        return [node for node, device in enumerate(x) if device == fullest]

    def _moves(self, focus: list[int]) -> list[tuple[int, int]]:
        draw, x = self.draw, self.search.x
        if self._stored and draw.random() < 0.2:
            a, b = draw.choice(self._stored), draw.choice(self._stored)
            fits = x[a] != x[b] and self._able[a][x[b]] and self._able[b][x[a]]
            return [(a, x[b]), (b, x[a])] if fits else []
        node = draw.choice(focus) if focus and draw.random() < 0.5 else draw.randrange(self.problem.nodes)
        device = draw.randrange(self.problem.devices)
        if device == x[node]:
            return []
        return [(other, device) for other in self._run_of(node, draw.choice(LENGTHS)) if self._able[other][device]]

    def _run_of(self, node: int, length: int) -> list[int]:
        """A node and others on its device that hang together."""
        found = {node: None}
        rim = [node]
        while rim and len(found) < length:
            for other in self._neighbours[rim.pop(0)]:
                if other not in found and self.search.x[other] == self.search.x[node] and len(found) < length:
                    found[other] = None
                    rim.append(other)
        return list(found)


def anneal(problem: Problem, start: Ints, objective: Objective, deadline: float, seed: int = 0) -> Ints | None:
    """Return the best assignment within the limits on a walk from a start; None if there was none."""
    return Annealing(problem, start, objective, seed).run(deadline)
