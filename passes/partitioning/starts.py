"""Assignments to start from: one device, the order cut into pieces, and HEFT."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from itertools import combinations, islice, permutations
from math import inf
from typing import NamedTuple

import numpy as np

from graphopt.passes.partitioning.problem import HOME, Floats, Ints, Problem

CUTS = 12
"""Places at which the order is cut."""
ALL_ORDERS = 4
"""Devices of which all orders are tried as stages."""


def single_devices(problem: Problem) -> Iterator[Ints]:
    """All nodes on one device, as far as it can run them; the others on their fastest."""
    fastest = problem.seconds.argmin(axis=1)
    for device in range(problem.devices):
        able = np.isfinite(problem.seconds[:, device])
        yield np.where(able, device, fastest)


def stage_orders(problem: Problem) -> list[tuple[int, ...]]:
    """Orders of the devices to try as stages: all of few devices, else rotations."""
    if problem.devices <= ALL_ORDERS:
        return list(permutations(range(problem.devices)))
    return [tuple((d + shift) % problem.devices for d in range(problem.devices)) for shift in range(problem.devices)]


def pieces(problem: Problem, cuts: int = CUTS) -> Iterator[Ints]:
    """The order of nodes cut into as many runs as there are devices, or fewer; by work, so that cuts lie where the time
    goes. Tensors move forward only, so each is a pipeline. Nodes that cannot run where they are stay there."""
    work = np.where(np.isfinite(problem.seconds), problem.seconds, 0.0).max(axis=1)
    done = np.cumsum(work) / max(float(work.sum()), 1e-300)
    places = sorted({int(np.searchsorted(done, share)) for share in np.linspace(0, 1, cuts + 2)[1:-1]})
    for order in stage_orders(problem):
        for chosen in combinations(places, min(problem.devices - 1, 3)):
            yield np.array(order)[np.searchsorted(np.array(chosen), np.arange(problem.nodes), side="right")]


class Schedule(NamedTuple):
    """The device of each node, when the last one or copy ends, and the nodes in the order in which they start."""

    assignment: Ints
    end: float
    order: Ints


def heft(problem: Problem, room: Floats | None = None, *, ranked: bool = True) -> Schedule:
    """Heterogeneous earliest finish time: nodes by their way to the end, on average, each where it ends first, in the
    gaps of what is scheduled already. In the order of the schedule the assignment ends no later than the schedule.

    room: bytes of weights that each device may hold, as far as another can take them; by default any number.
    ranked: by that order; otherwise in the order of the graph.
    """
    rank = _ranks(problem) if ranked else [0.0] * problem.nodes
    assignment = np.zeros(problem.nodes, dtype=np.int64)
    left = np.full(problem.devices, np.inf) if room is None else room.copy()
    made = [0.0] * len(problem.tensors)
    taken: list[list[tuple[float, float]]] = [[] for _ in range(problem.devices)]
    spans: list[tuple[float, float, int]] = []
    for node in sorted(range(problem.nodes), key=lambda i: (-rank[i], i)):
        weights = sum(problem.weights[index].size for index in problem.stored[node])
        able = [d for d in range(problem.devices) if np.isfinite(problem.seconds[node, d])]
        best = (np.inf, 0, 0.0)
        for device in [d for d in able if left[d] >= weights] or [max(able, key=lambda d: float(left[d]))]:
            ready = 0.0
            for index in problem.reads[node]:
                tensor = problem.tensors[index]
                ready = max(ready, made[index] + problem.transfer(tensor, problem.place(tensor, assignment), device))
            length = float(problem.seconds[node, device])
            start = _gap(taken[device], ready, length)
            best = min(best, (start + length, device, start))
        end, device, start = best
        assignment[node] = device
        left[device] -= weights
        insort(taken[device], (start, end))
        spans.append((start, end, node))
        for index in problem.made[node]:
            made[index] = end
    finish = max((end for spans in taken for _, end in spans), default=0.0)
    for index, tensor in enumerate(problem.tensors):
        if tensor.consumers and tensor.consumers[-1] == problem.nodes:
            back = problem.transfer(tensor, problem.place(tensor, assignment), HOME)
            finish = max(finish, made[index] + back)
    return Schedule(assignment, finish, np.array([node for _, _, node in sorted(spans)], dtype=np.int64))


def _ranks(problem: Problem) -> list[float]:
    """For each node the mean seconds from its start to the end of the graph."""
    finite = np.isfinite(problem.seconds)
    mean = np.where(finite, problem.seconds, 0.0).sum(axis=1) / finite.sum(axis=1)
    pairs = max(problem.devices * (problem.devices - 1), 1)
    latency, per_byte = problem.latency.sum() / pairs, problem.per_byte.sum() / pairs
    rank = [0.0] * problem.nodes
    for node in range(problem.nodes - 1, -1, -1):
        after = 0.0
        for index in problem.made[node]:
            tensor = problem.tensors[index]
            move = latency + tensor.size * per_byte if tensor.moves else 0.0
            after = max([after, *[rank[c] + move for c in tensor.consumers if c < problem.nodes]])
        rank[node] = float(mean[node]) + after
    return rank


def _gap(taken: list[tuple[float, float]], ready: float, length: float) -> float:
    """The first time from `ready` on at which a device is free for so long. taken: disjoint spans, in order."""
    start = ready
    for begin, end in islice(taken, max(bisect_right(taken, (ready, inf)) - 1, 0), None):
        if start + length <= begin:
            return start
        start = max(start, end)
    return start
