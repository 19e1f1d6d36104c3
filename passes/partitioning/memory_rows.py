"""The rows that keep memory within its limits, one for each device and step.

A tensor is on d at a step after its producer exactly if a consumer from that step on is on d, which u[v, d, k] says. A
view that d itself made keeps alive what it views, and takes nothing:

    life[v] ≥ u[v],  life[v] ≥ life[w] + x[p_w, d] − 1 for each view w of v,   apart[w] ≥ life[w] − x[p_w, d]
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from graphopt.passes.partitioning.problem import Ints, Problem
from graphopt.passes.partitioning.rows import Rows, Terms


class MemoryRows:
    """Adds the rows. x, u, f, z: the variables of a program. tighter: limits are multiplied by it,
    and by the variable `factor`, if that is not −1."""

    def __init__(
        self,
        rows: Rows,
        problem: Problem,
        x: Ints,
        u: Mapping[tuple[int, int, int], int],
        f: Mapping[tuple[int, int, int], int],
        z: Mapping[tuple[int, int], int],
        tighter: float,
        factor: int,
    ) -> None:
        self.rows, self.problem, self.x, self.u, self.z = rows, problem, x, u, z
        self.limits = problem.limits * tighter
        self._factor = factor
        self._views: dict[int, list[int]] = {}
        for index, tensor in enumerate(problem.tensors):
            if tensor.base >= 0:
                self._views.setdefault(tensor.base, []).append(index)
        self._arrivals: dict[tuple[int, int], list[int]] = {}
        for (index, _, sink), variable in f.items():
            self._arrivals.setdefault((index, sink), []).append(variable)
        self._ends: dict[int, list[int]] = {}
        self._lives: dict[tuple[int, int, int], int | None] = {}
        self._apart: dict[tuple[int, int, int], int] = {}

    def add(self, devices: Sequence[int]) -> None:
        """Add the rows of some devices."""
        problem = self.problem
        made: list[list[int]] = [[] for _ in range(problem.nodes + 1)]
        for index, tensor in enumerate(problem.tensors):
            if tensor.producer >= 0 or tensor.consumers:
                made[tensor.producer + 1].append(index)
        stored = {device: self._store(device) for device in devices}
        weights = sum(weight.size for weight in problem.weights)
        live: list[int] = []
        for step in range(-1, problem.nodes):
            live = [index for index in live if self._ends_of(index)[-1] >= step]
            new = made[step + 1]
            most = float(weights + sum(problem.tensors[index].size for index in (*live, *new)))
            most += float(problem.extra[step]) if step >= 0 else 0.0
            for device in devices:
                if most > self.limits[device] or self._factor >= 0:
                    self._limit(step, device, live, new, stored[device])
            live += [index for index in new if self._ends_of(index)]

    def _store(self, device: int) -> Terms:
        """The share of the limit that weights take."""
        limit = float(self.limits[device])
        own: Terms = [(z, -self.problem.weights[w].size / limit) for (w, d), z in self.z.items() if d == device]
        if not own:
            return []
        total = self.rows.variable(upper=np.inf)
        self.rows.add([(total, 1.0), *own], 0.0)
        return [(total, 1.0)]

    def _limit(self, step: int, device: int, live: list[int], new: list[int], stored: Terms) -> None:
        problem = self.problem
        limit = float(self.limits[device])
        terms = list(stored)
        for index in live:
            held = self._held(index, device, step)
            if held is not None:
                terms.append((held, problem.tensors[index].size / limit))
        for index in new:
            tensor = problem.tensors[index]
            there = self._arrivals.get((index, device), [])
            own = int(self.x[tensor.producer, device])
            if own >= 0 and tensor.base < 0:
                there = [*there, own]
            terms += [(variable, tensor.size / limit) for variable in there]
        if step >= 0 and problem.extra[step] and self.x[step, device] >= 0:
            terms.append((int(self.x[step, device]), float(problem.extra[step]) / limit))
        if self._factor >= 0:
            self.rows.add([*terms, (self._factor, -1.0)], high=0.0)
        else:
            self.rows.add(terms, high=1.0)

    def _ends_of(self, index: int) -> list[int]:
        """The consumers of a tensor and of its views, in order."""
        found = self._ends.get(index)
        if found is None:
            steps = set(self.problem.tensors[index].consumers)
            for view in self._views.get(index, ()):
                steps.update(self._ends_of(view))
            found = self._ends[index] = sorted(steps)
        return found

    def _held(self, index: int, device: int, step: int) -> int | None:
        """The variable that is 1 if a tensor made before takes memory on a device at a step."""
        life = self._life(index, device, step)
        tensor = self.problem.tensors[index]
        own = int(self.x[tensor.producer, device])
        if life is None or tensor.base < 0 or own < 0:
            return life
        key = index, device, life
        if key not in self._apart:
            self._apart[key] = self.rows.variable()
            self.rows.add([(self._apart[key], 1.0), (life, -1.0), (own, 1.0)], 0.0)
        return self._apart[key]

    def _life(self, index: int, device: int, step: int) -> int | None:
        """The variable that is 1 if a tensor is still read on a device, itself or by views that were made there."""
        key = index, device, bisect_left(self._ends_of(index), step)
        if key not in self._lives:
            self._lives[key] = self._new_life(index, device, step)
        return self._lives[key]

    def _new_life(self, index: int, device: int, step: int) -> int | None:
        consumers = self.problem.tensors[index].consumers
        own = self.u.get((index, device, bisect_left(consumers, step)))
        parts = [] if own is None else [own]
        for view in self._views.get(index, ()):
            maker = int(self.x[self.problem.tensors[view].producer, device])
            life = self._life(view, device, step) if maker >= 0 else None
            if life is not None:
                both = self.rows.variable()
                self.rows.add([(both, 1.0), (life, -1.0), (maker, -1.0)], -1.0)
                parts.append(both)
        return self.rows.largest(parts) if parts else None
