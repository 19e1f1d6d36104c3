"""The partition problem as a mixed-integer linear program, exact.

    x[i, d] = 1        node i on device d,  Σ_d x[i, d] = 1
    u[v, d, k] = 1     some consumer of tensor v from the k-th on is on d:  u_k ≥ x[c_k, d], u_k ≥ u_{k+1}
    f[v, a, b] = 1     v is copied from a to b:  f[v, a, b] ≤ x[p, a],  Σ_a f[v, a, b] ≥ u[v, b, 0] − x[p, b];
                       one a stands for all from which it takes equally long
    z[w, d] = 1        weight w is stored on d:  z ≥ x[c, d]

With two devices and no limit the relaxation is that of a minimum cut, whose corners are whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphopt.passes.partitioning.evaluation import is_feasible
from graphopt.passes.partitioning.memory_rows import MemoryRows
from graphopt.passes.partitioning.problem import HOME, Floats, Ints, Objective, Problem
from graphopt.passes.partitioning.rows import Rows, Terms

TIGHTER = 1 - 3e-6
"""A solver keeps its rows up to 1e-6. Where that let memory run over, limits are multiplied by this."""
LESS = 1e-6
"""By which share an assignment has to be better to be looked for."""


Aim = Objective | Literal["memory", "work"]
"""An objective; or the least factor of all memory limits that would do; or the busiest device, links left out."""


@dataclass(frozen=True)
class Solution:
    """The best assignment that was found, or None; a lower bound of the cost; whether it is known to be the best.

    infeasible: there is no assignment at all.
    """

    assignment: Ints | None
    bound: float
    optimal: bool
    infeasible: bool = False


def solve_program(
    problem: Problem,
    objective: Aim,
    *,
    order: Sequence[int] = (),
    horizon: float = 0.0,
    groups: Sequence[int] | Ints | None = None,
    time_limit: float = 60.0,
    gap: float = 0.0,
    below: float = np.inf,
) -> Solution:
    """Solve a problem by integer programming.

    order: for throughput, the devices in the order of the stages. horizon: for latency, when a known assignment ends.
    groups: a number for each node; nodes of equal numbers stay together, so the bound is not that of the problem.
    below: only assignments that cost less are looked for, without HiGHS' presolve.
    """
    for factor in (1.0, TIGHTER):
        program = Program(problem, objective, order, horizon, groups, factor)
        program.rows.cut_off(below * (1 - LESS) / program.scale)
        outcome = program.rows.solve(time_limit, gap, presolve=below == np.inf)
        bound = outcome.bound * program.scale
        if outcome.values is None:
            return Solution(None, bound, False, outcome.infeasible)
        assignment = program.assignment(outcome.values)
        if objective == "memory" or is_feasible(problem, assignment):
            return Solution(assignment, bound, outcome.optimal)
    return Solution(None, bound, False)


def relax_program(
    problem: Problem, objective: Aim, time_limit: float, order: Sequence[int] = ()
) -> tuple[Floats | None, float]:
    """The linear relaxation: the shares of devices in each node [n, D] and a lower bound of the cost; None and 0 where
    it takes too long. A bound of inf says that there is no assignment."""
    program = Program(problem, objective, order)
    outcome = program.rows.solve(time_limit, relaxed=True)
    if outcome.infeasible:
        return None, float("inf")
    if not outcome.optimal or outcome.values is None:
        return None, 0.0
    return program.shares(outcome.values), outcome.bound * program.scale


class Program:
    """The rows of a problem. scale: the objective is in units of so many seconds. x: variables by node and device.

    starts, end: for latency, when each node starts, and when all is done.
    """

    def __init__(
        self,
        problem: Problem,
        objective: Aim,
        order: Sequence[int] = (),
        horizon: float = 0.0,
        groups: Sequence[int] | Ints | None = None,
        tighter: float = 1.0,
    ) -> None:
        self.problem = problem
        self.rows = Rows()
        finite = problem.seconds[np.isfinite(problem.seconds)]
        self.scale = 1.0 if objective == "memory" else float(max(finite.max(initial=0.0), 1e-12))
        self.limited = [d for d in range(problem.devices) if np.isfinite(problem.limits[d])]
        self.u: dict[tuple[int, int, int], int] = {}
        self.f: dict[tuple[int, int, int], int] = {}
        self._alike = objective != "throughput"
        self.z: dict[tuple[int, int], int] = {}
        self.starts: list[int] = []
        self.end = -1
        self._place_nodes(np.arange(problem.nodes) if groups is None else np.asarray(groups))
        self._count_consumers()
        self._copy()
        self._store_weights(costly=objective != "memory")
        if self.limited:
            factor = self.rows.variable(1.0, upper=np.inf) if objective == "memory" else -1
            MemoryRows(self.rows, problem, self.x, self.u, self.f, self.z, tighter, factor).add(self.limited)
        self._limit_energy()
        if objective == "memory":
            return
        if objective == "serial":
            self._add_serial()
        elif objective == "throughput":
            self._add_throughput(order)
        elif objective == "work":
            self._add_throughput((), links=False)
        else:
            self._add_latency(horizon / self.scale)

    def shares(self, values: Floats) -> Floats:
        """The share of each device in each node: [n, D]."""
        return np.where(self.x >= 0, values[self.x], 0.0)[: self.problem.nodes]

    def assignment(self, values: Floats) -> Ints:
        """The device of each node."""
        chosen = np.where(self.x >= 0, values[self.x], -1.0)[: self.problem.nodes]
        return np.asarray(chosen.argmax(axis=1), dtype=np.int64)

    def _place_nodes(self, groups: Ints) -> None:
        problem, rows = self.problem, self.rows
        self.x = np.full((problem.nodes + 1, problem.devices), -1, dtype=np.int64)
        for group in np.split(
            np.argsort(groups, kind="stable"), np.cumsum(np.unique(groups, return_counts=True)[1])[:-1]
        ):
            possible = np.flatnonzero(np.isfinite(problem.seconds[group]).all(axis=0))
            for device in possible:
                self.x[group, device] = rows.variable(whole=True)
            rows.add([(int(self.x[group[0], d]), 1.0) for d in possible], 1.0, 1.0)
        # The caller's place is known: a fixed variable stands for it, and no row needs a case for it.
        self.x[problem.nodes, HOME] = rows.variable()
        rows.add([(int(self.x[problem.nodes, HOME]), 1.0)], 1.0, 1.0)

    def _on(self, nodes: Sequence[int], device: int) -> list[int]:
        """The variables that place these nodes on a device."""
        return [int(self.x[node, device]) for node in nodes if self.x[node, device] >= 0]

    def _count_consumers(self) -> None:
        for index, tensor in enumerate(self.problem.tensors):
            for device in range(self.problem.devices):
                if device in self.limited:
                    self._chain(index, tensor.consumers, device)
                elif there := self._on(tensor.consumers, device):
                    self.u[index, device, 0] = self.rows.largest(there)

    def _chain(self, index: int, consumers: tuple[int, ...], device: int) -> None:
        later: list[int] = []
        for k in range(len(consumers) - 1, -1, -1):
            there = later + self._on(consumers[k : k + 1], device)
            if there:
                later = [self.rows.largest(there)]
                self.u[index, device, k] = later[0]

    def _copy(self) -> None:
        problem, rows = self.problem, self.rows
        for index, tensor in enumerate(problem.tensors):
            made = self.x[tensor.producer]  # the caller's is the last row
            for sink in range(problem.devices):
                u = self.u.get((index, sink, 0))
                if u is None:
                    continue
                needed: Terms = [(u, -1.0)] + [(variable, 1.0) for variable in self._on([tensor.producer], sink)]
                groups = self._sources(index, [int(a) for a in np.flatnonzero(made >= 0) if a != sink], sink)
                for sources in groups:
                    f = self.f[index, sources[0], sink] = rows.variable()
                    needed.append((f, 1.0))
                    if len(groups) > 1:
                        rows.add([(f, 1.0), *[(int(made[a]), -1.0) for a in sources]], high=0.0)
                rows.add(needed, 0.0)

    def _sources(self, index: int, sources: list[int], sink: int) -> list[list[int]]:
        """Sources from which a copy takes equally long share a variable, unless links are told apart."""
        groups: dict[float, list[int]] = {}
        for source in sources:
            seconds = self.problem.transfer(self.problem.tensors[index], source, sink)
            groups.setdefault(seconds if self._alike else source, []).append(source)
        return list(groups.values())

    def _store_weights(self, costly: bool) -> None:
        problem, rows = self.problem, self.rows
        for index, weight in enumerate(problem.weights):
            there: Terms = []
            for device in range(problem.devices):
                if readers := self._on(weight.consumers, device):
                    self.z[index, device] = rows.largest(readers)
                    there.append((self.z[index, device], 1.0))
            if costly and len(there) > 1 and len(set(weight.consumers)) > 1 and problem.loads[index] > 0:
                more = rows.variable(float(problem.loads[index]) / self.scale, upper=np.inf)
                rows.add([*there, (more, -1.0)], high=1.0)

    def _limit_energy(self) -> None:
        for device in np.flatnonzero(np.isfinite(self.problem.busy)):
            limit = float(self.problem.busy[device])
            self.rows.add([(v, s / limit) for v, s in self._work(int(device))], high=1.0)

    # Objectives

    def _work(self, device: int) -> Terms:
        """The seconds that a device works."""
        nodes = np.flatnonzero(self.x[:-1, device] >= 0)
        return [(int(self.x[i, device]), float(self.problem.seconds[i, device])) for i in nodes]

    def _seconds(self, copy: tuple[int, int, int]) -> float:
        """Scaled seconds of a copy."""
        index, source, sink = copy
        return self.problem.transfer(self.problem.tensors[index], source, sink) / self.scale

    def _add_serial(self) -> None:
        for device in range(self.problem.devices):
            for variable, seconds in self._work(device):
                self.rows.costs[variable] += seconds / self.scale
        for copy, variable in self.f.items():
            self.rows.costs[variable] += self._seconds(copy)

    def _add_throughput(self, order: Sequence[int], *, links: bool = True) -> None:
        """The busiest device or link. Without an order tensors may go back, too."""
        end = self.rows.variable(1.0, upper=np.inf)
        for device in range(self.problem.devices):
            self.rows.add([*[(v, s / self.scale) for v, s in self._work(device)], (end, -1.0)], high=0.0)
        by_link: dict[tuple[int, int], Terms] = {}
        for copy, variable in self.f.items() if links else ():
            by_link.setdefault(copy[1:], []).append((variable, self._seconds(copy)))
        for terms in by_link.values():
            self.rows.add([*terms, (end, -1.0)], high=0.0)
        for before, after in self.problem.edges:
            for stages in range(1, len(order)):
                first = [(int(v), 1.0) for v in self.x[before, list(order[:stages])] if v >= 0]
                then = [(int(v), -1.0) for v in self.x[after, list(order[:stages])] if v >= 0]
                if then:
                    self.rows.add(first + then, 0.0)

    def _add_latency(self, horizon: float) -> None:
        """s_i ≥ e_p + copy;  s_i ≥ free[d] − H(1 − x[i, d]);  free'[d] ≥ e_i − H(1 − x[i, d]), e_i = s_i + c_i.

        Without a horizon devices run any number of nodes at once, which bounds the time; but never in less than they
        work, and so one after another: T ≥ Σ_i c[i, d] x[i, d].
        """
        problem, rows = self.problem, self.rows
        self.end = end = rows.variable(1.0, upper=np.inf)
        for device in range(problem.devices):
            rows.add([*[(v, s / self.scale) for v, s in self._work(device)], (end, -1.0)], high=0.0)
        free = [-1] * problem.devices
        ends: list[Terms] = []
        for node in range(problem.nodes):
            start = rows.variable(upper=np.inf)
            self.starts.append(start)
            work = [(v, float(problem.seconds[node, d]) / self.scale) for d, v in enumerate(self.x[node]) if v >= 0]
            done: Terms = [(start, 1.0), *[(int(v), s) for v, s in work]]
            ends.append(done)
            rows.add([*done, (end, -1.0)], high=0.0)
            for index in problem.reads[node]:
                self._arrive(index, node, [(start, 1.0)], ends)
            for device, variable in enumerate(self.x[node]):
                if variable < 0:
                    continue
                if not horizon:
                    continue
                if free[device] >= 0:
                    rows.add([(start, 1.0), (free[device], -1.0), (int(variable), -horizon)], -horizon)
                after = rows.variable(upper=np.inf)
                rows.add([(after, 1.0), *_negated(done), (int(variable), -horizon)], -horizon)
                if free[device] >= 0:
                    rows.add([(after, 1.0), (free[device], -1.0)], 0.0)
                free[device] = after
        for index, tensor in enumerate(problem.tensors):
            if tensor.consumers and tensor.consumers[-1] == problem.nodes:
                self._arrive(index, problem.nodes, [(end, 1.0)], ends)

    def _arrive(self, index: int, node: int, start: Terms, ends: list[Terms]) -> None:
        """What starts on `node`'s device waits for a tensor: for its producer, and for its copy."""
        problem, rows = self.problem, self.rows
        tensor = problem.tensors[index]
        terms = start + (_negated(ends[tensor.producer]) if tensor.producer >= 0 else [])
        if tensor.moves:
            terms += self._transport(index, tensor.producer, node)
        rows.add(terms, 0.0)

    def _transport(self, index: int, producer: int, consumer: int) -> Terms:
        """−(seconds from the device of one node to that of another), by flows between the two placements."""
        rows, problem = self.rows, self.problem
        outgoing: dict[int, Terms] = {}
        incoming: dict[int, Terms] = {}
        terms: Terms = []
        for a in np.flatnonzero(self.x[producer] >= 0):
            for b in np.flatnonzero(self.x[consumer] >= 0):
                g = rows.variable()
                outgoing.setdefault(int(a), []).append((g, -1.0))
                incoming.setdefault(int(b), []).append((g, -1.0))
                if a != b:
                    terms.append((g, -problem.transfer(problem.tensors[index], int(a), int(b)) / self.scale))
        for node, sides in ((producer, outgoing), (consumer, incoming)):
            for device, flows in sides.items():
                rows.add([(int(self.x[node, device]), 1.0), *flows], 0.0, 0.0)
        return terms


def _negated(terms: Terms) -> Terms:
    return [(variable, -coefficient) for variable, coefficient in terms]
