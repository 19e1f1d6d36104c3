"""Random partition problems in numbers, and the best assignment by trying all: an oracle that shares no code with the
solvers. Everything is computed for all assignments at once, one row each."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np

from graphopt.passes.partitioning.problem import Problem, Tensor, Weight


def random_problem(
    seed: int, nodes: int, devices: int, *, limited: bool = True, views: bool = True, capable: float = 0.9
) -> Problem:
    """A problem whose costs, sizes, links, limits and capabilities are drawn from a seed."""
    draw = random.Random(seed)
    readers: list[set[int]] = []
    made: list[tuple[int, int, int, bool]] = []  # producer, size, base, moves
    for _ in range(draw.randint(0, 2)):
        made.append((-1, draw.randint(1, 30), -1, True))
        readers.append(set())
    for node in range(nodes):
        recent = list(range(len(made)))[-6:]
        read = draw.sample(recent, min(len(recent), draw.choice((0, 1, 1, 1, 2, 2, 3))))
        for index in read:
            readers[index].add(node)
        views_one = views and read and draw.random() < 0.25
        for _ in range(draw.choice((1, 1, 1, 2))):
            size = draw.randint(0, 40)
            made.append((node, size, read[0] if views_one else -1, draw.random() < 0.95))
            readers.append(set())
    for index in range(len(made)):
        if draw.random() < (0.3 if readers[index] else 0.5) or index == len(made) - 1:
            readers[index].add(nodes)
    weights = []
    for _ in range(draw.randint(0, nodes)):
        users = draw.sample(range(nodes), min(nodes, draw.choice((1, 1, 1, 2, 3))))
        weights.append(Weight(draw.randint(1, 60), tuple(sorted(users))))
    seconds = np.array([[draw.randint(1, 60) for _ in range(devices)] for _ in range(nodes)], dtype=float)
    for row in seconds:
        for device in range(devices):
            if draw.random() > capable and np.isfinite(row).sum() > 1:
                row[device] = np.inf
    latency = np.array([[draw.randint(0, 15) for _ in range(devices)] for _ in range(devices)], dtype=float)
    per_byte = np.array([[draw.choice((0.0, 0.1, 0.5, 1.0)) for _ in range(devices)] for _ in range(devices)])
    np.fill_diagonal(latency, 0)
    np.fill_diagonal(per_byte, 0)
    most = sum(size for _, size, _, _ in made) + sum(w.size for w in weights)
    limits = [draw.choice((np.inf, draw.randint(most // 6, most))) if limited else np.inf for _ in range(devices)]
    busy = [draw.choice((np.inf, np.inf, np.inf, draw.randint(20, 40 * nodes))) for _ in range(devices)]
    return Problem(
        seconds=seconds,
        tensors=tuple(
            Tensor(producer, size, tuple(sorted(readers[i])), base, moves)
            for i, (producer, size, base, moves) in enumerate(made)
        ),
        weights=tuple(weights),
        latency=latency,
        per_byte=per_byte,
        limits=np.array(limits, dtype=float),
        busy=np.array(busy if limited else [np.inf] * devices, dtype=float),
        extra=np.array([draw.choice((0, 0, 0, draw.randint(1, 20))) for _ in range(nodes)], dtype=float),
        runs=draw.choice((2.0, 10.0, 1000.0)),
    )


def without_limits(problem: Problem) -> Problem:
    free = np.full(problem.devices, np.inf)
    return replace(problem, limits=free, busy=free)


class BruteForce:
    """All assignments of a problem: their costs, peaks, and which are allowed."""

    def __init__(self, problem: Problem) -> None:
        self.p = problem
        n, devices = problem.nodes, problem.devices
        count = devices**n
        x = np.array(np.unravel_index(np.arange(count), (devices,) * n)).T if n else np.zeros((1, 0), int)
        self.x = np.concatenate([x, np.zeros((count, 1), int)], axis=1)  # the caller, at home, is the last (and -1)
        self.rows = np.arange(count)
        self.busy = np.zeros((count, devices))
        for i in range(n):
            np.add.at(self.busy, (self.rows, self.x[:, i]), problem.seconds[i, self.x[:, i]])

    def transfer(self, index: int, sink: np.ndarray | int) -> np.ndarray:
        """Seconds to bring a tensor to a device; 0 if it is there."""
        tensor, source = self.p.tensors[index], self.x[:, self.p.tensors[index].producer]
        if not tensor.moves:
            return np.zeros(len(self.rows))
        seconds = self.p.latency[source, sink] + tensor.size * self.p.per_byte[source, sink]
        return np.where(source == sink, 0.0, seconds)

    def read_on(self, index: int, device: int, since: int = -1) -> np.ndarray:
        """Whether a consumer from a step on is on a device."""
        later = [c for c in self.p.tensors[index].consumers if c >= since]
        return np.any([self.x[:, c] == device for c in later], axis=0) if later else np.zeros(len(self.rows), bool)

    def duplication(self) -> np.ndarray:
        total = np.zeros(len(self.rows))
        for weight in self.p.weights:
            copies = sum(
                np.any([self.x[:, c] == d for c in weight.consumers], axis=0).astype(int) for d in range(self.p.devices)
            )
            total += (copies - 1) * weight.size * self.p.per_byte.max() / self.p.runs
        return total

    def serial(self) -> np.ndarray:
        total = self.busy.sum(axis=1)
        for index in range(len(self.p.tensors)):
            for device in range(self.p.devices):
                total = total + self.read_on(index, device) * self.transfer(index, device)
        return total + self.duplication()

    def latency(self) -> np.ndarray:
        free = np.zeros((len(self.rows), self.p.devices))
        made = np.zeros((len(self.rows), len(self.p.tensors)))
        for i in range(self.p.nodes):
            device = self.x[:, i]
            start = free[self.rows, device]
            for index, tensor in enumerate(self.p.tensors):
                if i in tensor.consumers:
                    start = np.maximum(start, made[:, index] + self.transfer(index, device))
            end = start + self.p.seconds[i, device]
            free[self.rows, device] = end
            for index, tensor in enumerate(self.p.tensors):
                if tensor.producer == i:
                    made[:, index] = end
        total = free.max(axis=1)
        for index, tensor in enumerate(self.p.tensors):
            if self.p.nodes in tensor.consumers:
                total = np.maximum(total, made[:, index] + self.transfer(index, 0))
        return total + self.duplication()

    def throughput(self) -> np.ndarray:
        total = self.busy.max(axis=1)
        for a in range(self.p.devices):
            for b in range(self.p.devices):
                if a != b:
                    link = sum(
                        (self.x[:, t.producer] == a) * self.read_on(i, b) * self.transfer(i, b)
                        for i, t in enumerate(self.p.tensors)
                    )
                    total = np.maximum(total, link)
        return np.where(self.leads_back(), np.inf, total + self.duplication())

    def leads_back(self) -> np.ndarray:
        devices = self.p.devices
        after = np.zeros((len(self.rows), devices, devices), bool)
        for tensor in self.p.tensors:
            for c in tensor.consumers if tensor.producer >= 0 else ():
                if c < self.p.nodes:
                    after[self.rows, self.x[:, tensor.producer], self.x[:, c]] = True
        after[:, range(devices), range(devices)] = False
        for k in range(devices):
            after |= after[:, :, k : k + 1] & after[:, k : k + 1, :]
        return after[:, range(devices), range(devices)].any(axis=1)

    def peaks(self) -> np.ndarray:
        """By following each storage: what is on a device at each step, one after another."""
        p, devices = self.p, self.p.devices
        peak = np.zeros((len(self.rows), devices))
        weights = np.zeros((len(self.rows), devices))
        for weight in p.weights:
            for d in range(devices):
                weights[:, d] += weight.size * np.any([self.x[:, c] == d for c in weight.consumers], axis=0)
        for step in range(-1, p.nodes):
            for d in range(devices):
                live = weights[:, d].copy()
                for index, tensor in enumerate(p.tensors):
                    if tensor.producer > step:
                        continue
                    here = self.x[:, tensor.producer] == d
                    held = self.read_on(index, d, step) | self.viewed(index, d, step)
                    if tensor.producer == step and (tensor.producer >= 0 or tensor.consumers):
                        held = held | here
                    if tensor.base >= 0:
                        held = held & ~here
                    live += tensor.size * held
                if step >= 0:
                    live += p.extra[step] * (self.x[:, step] == d)
                peak[:, d] = np.maximum(peak[:, d], live)
        return peak

    def viewed(self, index: int, device: int, step: int) -> np.ndarray:
        """Whether a view made on the device keeps a tensor alive there."""
        found = np.zeros(len(self.rows), bool)
        for view, tensor in enumerate(self.p.tensors):
            if tensor.base == index:
                reads = self.read_on(view, device, step) | self.viewed(view, device, step)
                found |= (self.x[:, tensor.producer] == device) & reads
        return found

    def allowed(self) -> np.ndarray:
        fits = (self.peaks() <= self.p.limits).all(axis=1) & (self.busy <= self.p.busy * (1 + 1e-9)).all(axis=1)
        return fits & np.isfinite(self.busy).all(axis=1)

    def best(self, objective: str) -> float:
        """The least cost of an allowed assignment, inf where there is none."""
        costs = np.where(self.allowed(), getattr(self, objective)(), np.inf)
        return float(costs.min())


def large_problem(seed: int, nodes: int, devices: int, *, room: float = 1.2) -> Problem:
    """A problem with the shape of a network: blocks of branches that join, skip connections, most of the work and the
    weights in a few nodes, device 0 slow and the others fast, in microseconds and kilobytes.

    room: the limits of all devices together, as a multiple of what the weights take.
    """
    draw = random.Random(seed)
    tensors: list[list[int]] = [[-1, draw.randint(100, 600)]]
    readers: list[list[int]] = [[]]
    weights, work = [], []
    ends, old = [0], [0]
    for node in range(nodes):
        if len(ends) > 1 and draw.random() < 0.35:
            read = [ends.pop(draw.randrange(len(ends))), ends.pop(draw.randrange(len(ends)))]
        elif len(ends) < 6 and draw.random() < 0.2:
            read = [draw.choice(ends)]
        else:
            read = [ends.pop(draw.randrange(len(ends)))]
        if draw.random() < 0.1:
            read.append(draw.choice(old[-40:]))
        for index in dict.fromkeys(read):
            readers[index].append(node)
        ends.append(len(tensors))
        old.append(len(tensors))
        tensors.append([node, draw.randint(10, 400)])
        readers.append([])
        heavy = draw.random() < 0.3
        work.append(draw.uniform(200, 3000) if heavy else draw.uniform(5, 60))
        if heavy:
            others = [node] if draw.random() < 0.95 else sorted({node, draw.randrange(node + 1)})
            weights.append(Weight(draw.randint(200, 4000), tuple(others)))
    for index in ends:
        readers[index].append(nodes)
    speeds = [[1.0, *[draw.uniform(4, 12) for _ in range(devices - 1)]] for _ in range(nodes)]
    launch = [1.0] + [draw.uniform(3, 8) for _ in range(devices - 1)]
    seconds = np.array([[w / s + k for s, k in zip(row, launch)] for w, row in zip(work, speeds)])
    seconds *= np.array([[draw.uniform(0.9, 1.1) for _ in range(devices)] for _ in range(nodes)])
    latency = np.full((devices, devices), 10.0) - 10.0 * np.eye(devices)
    per_byte = (np.full((devices, devices), 0.08) - 0.08 * np.eye(devices)) * draw.uniform(0.5, 2)
    total = sum(w.size for w in weights)
    shares = [draw.uniform(0.7, 1.3) for _ in range(devices)]
    limits = [total * room * s / sum(shares) + 3000 for s in shares]
    return Problem(
        seconds=seconds,
        tensors=tuple(Tensor(p, s, tuple(r)) for (p, s), r in zip(tensors, readers)),
        weights=tuple(weights),
        latency=latency,
        per_byte=per_byte,
        limits=np.array(limits),
        busy=np.full(devices, np.inf),
        extra=np.zeros(nodes),
    )
