"""What an assignment costs, and the memory that it takes: exact, O(nodes + uses) · devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.passes.partitioning.problem import CALLER, HOME, Floats, Ints, Objective, Problem

NEVER = -2
"""Where a tensor has no consumer."""


@dataclass(frozen=True)
class Copies:
    """Which copies an assignment needs: tensor, source, sink, seconds, in the order of tensors and devices."""

    tensor: Ints
    source: Ints
    sink: Ints
    seconds: Floats


@dataclass(frozen=True)
class _Uses:
    """The uses of tensors and weights as flat arrays."""

    tensor: Ints
    node: Ints
    weight: Ints
    reader: Ints
    producer: Ints
    size: Floats
    moves: np.ndarray
    views: list[tuple[int, int]]
    weight_size: Floats


def _uses(problem: Problem) -> _Uses:
    found = problem.memo.get("uses")
    if found is None:
        tensors, weights = problem.tensors, problem.weights
        found = problem.memo["uses"] = _Uses(
            np.array([i for i, t in enumerate(tensors) for _ in t.consumers], dtype=np.int64),
            np.array([c for t in tensors for c in t.consumers], dtype=np.int64),
            np.array([i for i, w in enumerate(weights) for _ in w.consumers], dtype=np.int64),
            np.array([c for w in weights for c in w.consumers], dtype=np.int64),
            np.array([t.producer for t in tensors], dtype=np.int64),
            np.array([t.size for t in tensors], dtype=float),
            np.array([t.moves for t in tensors], dtype=bool),
            [(i, t.base) for i, t in enumerate(tensors) if t.base >= 0],
            np.array([w.size for w in weights], dtype=float),
        )
    assert isinstance(found, _Uses)
    return found


def _extended(problem: Problem, assignment: Sequence[int] | Ints) -> Ints:
    """The devices of nodes, and in the end that of the caller (who is −1 as a producer, too)."""
    return np.append(np.asarray(assignment, dtype=np.int64), HOME)


def last_uses(problem: Problem, assignment: Sequence[int] | Ints) -> Ints:
    """The last consumer of each tensor on each device, `NEVER` where there is none: [tensors, D]."""
    uses, x = _uses(problem), _extended(problem, assignment)
    last = np.full((len(problem.tensors), problem.devices), NEVER, dtype=np.int64)
    np.maximum.at(last, (uses.tensor, x[uses.node]), uses.node)
    return last


def copies(problem: Problem, assignment: Sequence[int] | Ints) -> Copies:
    """The copies that an assignment needs: one for each tensor and device with consumers but without the producer."""
    uses, x = _uses(problem), _extended(problem, assignment)
    home = x[uses.producer]
    wanted = last_uses(problem, assignment) >= 0
    wanted[np.arange(len(home)), home] = False
    wanted &= uses.moves[:, None]
    tensor, sink = np.nonzero(wanted)
    source = home[tensor]
    seconds = problem.latency[source, sink] + uses.size[tensor] * problem.per_byte[source, sink]
    return Copies(tensor, source, sink, seconds)


def stored_weights(problem: Problem, assignment: Sequence[int] | Ints) -> np.ndarray:
    """Which device stores which weight: [weights, D]."""
    uses, x = _uses(problem), _extended(problem, assignment)
    stored = np.zeros((len(problem.weights), problem.devices), dtype=bool)
    stored[uses.weight, x[uses.reader]] = True
    return stored


def duplication(problem: Problem, assignment: Sequence[int] | Ints) -> float:
    """Seconds a run that go for weights stored more than once."""
    times = stored_weights(problem, assignment).sum(axis=1)
    return float((np.maximum(times - 1, 0) * problem.loads).sum())


def busy_seconds(problem: Problem, assignment: Sequence[int] | Ints) -> Floats:
    """How long each device works: [D]."""
    x = np.asarray(assignment, dtype=np.int64)
    worked = np.bincount(x, problem.seconds[np.arange(len(x)), x], minlength=problem.devices)
    return worked.astype(np.float64)


def memory_profile(problem: Problem, assignment: Sequence[int] | Ints) -> Floats:
    """Bytes on each device at each step, weights included: [D, n + 1], the first column before the first node."""
    uses, x = _uses(problem), _extended(problem, assignment)
    n, rows = problem.nodes, np.arange(len(problem.tensors))
    last = last_uses(problem, assignment)
    home = x[uses.producer]
    own = (uses.producer >= 0) | (last >= 0).any(axis=1)  # what the caller gives and nobody reads is not counted
    last[rows[own], home[own]] = np.maximum(last[rows[own], home[own]], uses.producer[own])
    for view, base in reversed(uses.views):
        device = home[view]
        last[base, device] = max(last[base, device], last[view, device])
        last[view, device] = NEVER
    live, device = np.nonzero(last >= CALLER)
    change = np.zeros((problem.devices, n + 3))
    size = uses.size[live]
    np.add.at(change, (device, uses.producer[live] + 1), size)
    np.add.at(change, (device, last[live, device] + 2), -size)
    profile = np.cumsum(change, axis=1)[:, : n + 1]
    profile[x[:-1], np.arange(1, n + 1)] += problem.extra
    return profile + (stored_weights(problem, assignment) * uses.weight_size[:, None]).sum(axis=0)[:, None]


def peaks(problem: Problem, assignment: Sequence[int] | Ints) -> Floats:
    """The most bytes that each device holds at once: [D]."""
    return memory_profile(problem, assignment).max(axis=1)


def is_feasible(problem: Problem, assignment: Sequence[int] | Ints) -> bool:
    """Whether every node can run where it is, within the limits of memory and energy."""
    x = np.asarray(assignment, dtype=np.int64)
    if not np.isfinite(problem.seconds[np.arange(len(x)), x]).all():
        return False
    if (busy_seconds(problem, x) > problem.busy * (1 + 1e-9)).any():
        return False
    return not np.isfinite(problem.limits).any() or bool((peaks(problem, x) <= problem.limits).all())


def overrun(problem: Problem, assignment: Sequence[int] | Ints) -> float:
    """By how much memory and energy run over, each as a share of its limit."""
    over = np.maximum(busy_seconds(problem, assignment) / problem.busy - 1, 0).sum()
    if np.isfinite(problem.limits).any():
        over += np.maximum(peaks(problem, assignment) / problem.limits - 1, 0).sum()
    return float(over)


def moves_forward(problem: Problem, assignment: Sequence[int] | Ints) -> bool:
    """Whether tensors between nodes on different devices never lead back: the devices are stages of a pipeline."""
    following = {(int(assignment[a]), int(assignment[b])) for a, b in problem.edges}
    after = np.zeros((problem.devices, problem.devices), dtype=bool)
    for a, b in following:
        after[a, b] = a != b
    reach = after.copy()
    for _ in range(problem.devices):
        reach |= (reach.astype(int) @ after.astype(int)) > 0
    return not reach.diagonal().any()


def finish_time(problem: Problem, assignment: Sequence[int] | Ints) -> float:
    """When the last node or copy ends; devices run their nodes in order, beside each other and beside copies."""
    plan = _plan(problem)
    where = [*map(int, assignment), HOME]
    free = [0.0] * problem.devices
    ends = [0.0] * (problem.nodes + 1)  # the last one: what the caller gives is there from the start
    for node, reads in enumerate(plan.reads):
        device = where[node]
        start = free[device]
        for producer, moves in reads:
            arrival = ends[producer]
            source = where[producer]
            if source != device and moves is not None:
                arrival += moves[source][device]
            if arrival > start:
                start = arrival
        free[device] = ends[node] = start + plan.seconds[node][device]
    end = max(free)
    for producer, moves in plan.returned:
        back = 0.0 if moves is None else moves[where[producer]][HOME]
        end = max(end, ends[producer] + back)
    return end


@dataclass(frozen=True)
class _Plan:
    """What `finish_time` walks over: for each node the producers that it reads, with the seconds of each copy."""

    seconds: list[list[float]]
    reads: list[list[tuple[int, list[list[float]] | None]]]
    returned: list[tuple[int, list[list[float]] | None]]


def _plan(problem: Problem) -> _Plan:
    found = problem.memo.get("plan")
    if found is None:
        moves = [(problem.latency + t.size * problem.per_byte).tolist() if t.moves else None for t in problem.tensors]
        sources = [(t.producer, m) for t, m in zip(problem.tensors, moves)]
        found = problem.memo["plan"] = _Plan(
            problem.seconds.tolist(),
            [[sources[index] for index in reads] for reads in problem.reads],
            [s for t, s in zip(problem.tensors, sources) if t.consumers and t.consumers[-1] == problem.nodes],
        )
    assert isinstance(found, _Plan)
    return found


def period(problem: Problem, assignment: Sequence[int] | Ints) -> float:
    """The time between two results of a pipeline: the busiest device, or link."""
    needed = copies(problem, assignment)
    links = np.bincount(
        needed.source * problem.devices + needed.sink, needed.seconds, minlength=problem.devices * problem.devices
    )
    return float(max(busy_seconds(problem, assignment).max(), links.max(initial=0.0)))


def cost(problem: Problem, assignment: Sequence[int] | Ints, objective: Objective) -> float:
    """Seconds by an objective; inf where a node cannot run, or where a pipeline would lead back."""
    x = np.asarray(assignment, dtype=np.int64)
    total = busy_seconds(problem, x).sum()
    if not np.isfinite(total):
        return float("inf")
    if objective == "latency":
        main = finish_time(problem, x)
    elif objective == "throughput":
        main = period(problem, x) if moves_forward(problem, x) else float("inf")
    else:
        main = float(total + copies(problem, x).seconds.sum())
    return main + duplication(problem, x)
