"""Improving an assignment by moves of nodes, with costs and memory kept up to date: O(uses of the node) a move.

The cost that is searched is that of the objective "serial", in seconds, and beside it by how much memory or energy runs
over; a move is taken if it makes less run over, or, where nothing does more, costs less.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.problem import CALLER, HOME, Ints, Problem

EPSILON = 1e-9


class Search:
    """An assignment with what it costs and takes, by device and step."""

    def __init__(self, problem: Problem, assignment: Sequence[int] | Ints, seed: int = 0) -> None:
        self.problem = problem
        self.x: list[int] = [int(d) for d in assignment]
        self._seconds = problem.seconds.tolist()
        self._latency, self._per_byte = problem.latency.tolist(), problem.per_byte.tolist()
        self._loads = problem.loads.tolist()
        self._random = random.Random(seed)
        devices, steps = problem.devices, problem.nodes + 1
        self._bounded = bool(np.isfinite(problem.limits).any())
        self._profile = np.zeros((devices, steps))
        self._busy = [0.0] * devices
        self._stored = [0.0] * devices
        self._views: list[list[int]] = [[] for _ in problem.tensors]
        for index, tensor in enumerate(problem.tensors):
            if tensor.base >= 0:
                self._views[tensor.base].append(index)
        self._readers = [[0] * devices for _ in problem.weights]
        self.cost = 0.0
        for node, device in enumerate(self.x):
            self._enter(node, device)
        for index in range(len(problem.tensors)):
            self._account(index, 1)

    # State

    def _device(self, node: int) -> int:
        return HOME if node == CALLER or node == self.problem.nodes else self.x[node]

    def _enter(self, node: int, device: int) -> None:
        """A node starts to run on a device: its work, its weights."""
        self.cost += self._seconds[node][device]
        self._busy[device] += self._seconds[node][device]
        self._profile[device, node + 1] += self.problem.extra[node]
        for index in self.problem.stored[node]:
            readers = self._readers[index]
            if not readers[device]:
                self._stored[device] += self.problem.weights[index].size
                self.cost += self._loads[index] if any(readers) else 0.0
            readers[device] += 1

    def _leave(self, node: int, device: int) -> None:
        self.cost -= self._seconds[node][device]
        self._busy[device] -= self._seconds[node][device]
        self._profile[device, node + 1] -= self.problem.extra[node]
        for index in self.problem.stored[node]:
            readers = self._readers[index]
            readers[device] -= 1
            if not readers[device]:
                self._stored[device] -= self.problem.weights[index].size
                self.cost -= self._loads[index] if any(readers) else 0.0

    def _account(self, index: int, sign: int) -> None:
        """Add (or take away) the copies of a tensor, and what it takes on each device."""
        tensor = self.problem.tensors[index]
        home = self._device(tensor.producer)
        start = tensor.producer + 1
        for device, end in self._lives(index).items():
            if device != home:
                if tensor.moves and any(self._device(c) == device for c in tensor.consumers):
                    seconds = self._latency[home][device] + tensor.size * self._per_byte[home][device]
                    self.cost += sign * seconds
            elif tensor.base >= 0:
                continue
            if self._bounded:
                self._profile[device, start : end + 2] += sign * tensor.size

    def _lives(self, index: int) -> dict[int, int]:
        """Where a tensor lives, and until which step."""
        tensor = self.problem.tensors[index]
        ends: dict[int, int] = {}
        for consumer in reversed(tensor.consumers):
            ends.setdefault(self._device(consumer), consumer)
        for view in self._views[index]:
            device = self._device(self.problem.tensors[view].producer)
            end = self._lives(view).get(device)
            if end is not None and end > ends.get(device, -1):
                ends[device] = end
        if ends or tensor.producer >= 0:
            ends.setdefault(self._device(tensor.producer), tensor.producer)
        return ends

    def _touched(self, node: int) -> list[int]:
        """The tensors whose copies or lives depend on where a node is."""
        found: dict[int, None] = {}
        for index in (*self.problem.reads[node], *self.problem.made[node]):
            while index >= 0 and index not in found:
                found[index] = None
                index = self.problem.tensors[index].base
        return list(found)

    def move(self, node: int, device: int) -> None:
        """Put a node on another device."""
        touched = self._touched(node)
        for index in touched:
            self._account(index, -1)
        self._leave(node, self.x[node])
        self.x[node] = device
        self._enter(node, device)
        for index in touched:
            self._account(index, 1)

    def excess(self) -> float:
        """By how much memory and energy run over, each as a share of its limit."""
        total = 0.0
        if self._bounded:
            peaks = self._profile.max(axis=1) + self._stored
            total += float(np.maximum(peaks / self.problem.limits - 1, 0).sum())
        for device, limit in enumerate(self.problem.busy):
            if self._busy[device] > limit * (1 + EPSILON):
                total += self._busy[device] / float(limit) - 1
        return total

    def room(self) -> list[float]:
        """The bytes that are free on each device at its peak."""
        peaks = self._profile.max(axis=1) + self._stored
        return [float(limit - peak) for limit, peak in zip(self.problem.limits, peaks)]

    # Moves

    def try_moves(self, moves: Sequence[tuple[int, int]]) -> bool:
        """Make some moves; take them back unless less runs over, or it costs less and no more runs over."""
        before, excess = self.cost, self.excess()
        origin = [(node, self.x[node]) for node, _ in moves]
        for node, device in moves:
            self.move(node, device)
        after = self.excess()
        if after < excess - EPSILON or (after <= excess and self.cost < before - EPSILON * abs(before)):
            return True
        for node, device in reversed(origin):
            self.move(node, device)
        return False

    def improve(self, deadline: float) -> None:
        """Move nodes, and groups of nodes, until nothing helps or time is up."""
        while monotonic() < deadline:
            moved = self._improve_nodes(deadline)
            moved |= self._improve_groups(deadline)
            moved |= self._improve_swaps(deadline)
            if not moved:
                return

    def _possible(self, nodes: Sequence[int]) -> Iterable[int]:
        here = self.x[nodes[0]]
        for device in range(self.problem.devices):
            if device != here and all(self._seconds[node][device] != float("inf") for node in nodes):
                yield device

    def _improve_nodes(self, deadline: float) -> bool:
        order = list(range(self.problem.nodes))
        self._random.shuffle(order)
        moved = False
        for count, node in enumerate(order):
            if count % 64 == 0 and monotonic() > deadline:
                break
            for device in self._possible([node]):
                moved |= self.try_moves([(node, device)])
        return moved

    def _improve_groups(self, deadline: float) -> bool:
        """Whole runs: connected nodes on one device, and their ends up to some length."""
        moved = False
        for group in self.runs():
            if monotonic() > deadline:
                break
            for part in _parts(group):
                for device in self._possible(part):
                    if self.try_moves([(node, device) for node in part]):
                        moved = True
                        break
        return moved

    def runs(self) -> list[list[int]]:
        """Connected sets of nodes on one device, each in order, the small ones first."""
        root = list(range(self.problem.nodes))

        def find(node: int) -> int:
            while root[node] != node:
                root[node] = root[root[node]]
                node = root[node]
            return node

        for a, b in self.problem.edges:
            if self.x[a] == self.x[b]:
                root[find(a)] = find(b)
        found: dict[int, list[int]] = {}
        for node in range(self.problem.nodes):
            found.setdefault(find(node), []).append(node)
        return sorted(found.values(), key=len)

    def _improve_swaps(self, deadline: float) -> bool:
        """Where memory is full: a node that would gain most on a device, for one that would lose least there."""
        if not self._bounded:
            return False
        moved = False
        for device in np.flatnonzero(np.isfinite(self.problem.limits)).tolist():
            gains = sorted((g, i) for i in range(self.problem.nodes) if (g := self._gain(i, device)) > 0)
            for _, node in reversed(gains[-200:]):
                if monotonic() > deadline:
                    return moved
                moved |= self._swap_in(node, device)
        return moved

    def _gain(self, node: int, device: int) -> float:
        there = self._seconds[node][device]
        return -1.0 if self.x[node] == device or there == float("inf") else self._seconds[node][self.x[node]] - there

    def _swap_in(self, node: int, device: int) -> bool:
        weights = sum(self.problem.weights[w].size for w in self.problem.stored[node])
        heavy = [i for i in range(self.problem.nodes) if self.x[i] == device and self.problem.stored[i]]
        if not heavy:
            return False
        for other in self._random.sample(heavy, min(len(heavy), 6)):
            given = sum(self.problem.weights[w].size for w in self.problem.stored[other])
            back = self.x[node]
            possible = given * 2 >= weights and self._seconds[other][back] != float("inf")
            if possible and self.try_moves([(other, back), (node, device)]):
                return True
        return False


def _parts(group: list[int]) -> Iterable[list[int]]:
    """A run as a whole if it is not long, and its first and last 2, 4, 8, … nodes."""
    if len(group) <= 256:
        yield group
    length = 2
    while length < len(group) and length <= 64:
        yield group[:length]
        yield group[-length:]
        length *= 2
