"""Improving an assignment for the objectives that no move changes locally: the end of the last node, and the busiest
stage. Each trial is evaluated whole, so trials go first to where it matters: the critical path, or the fullest stage.
"""

from __future__ import annotations

import random
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.evaluation import busy_seconds, cost, is_feasible
from graphopt.passes.partitioning.problem import Ints, Objective, Problem


def climb(problem: Problem, assignment: Ints, objective: Objective, deadline: float, seed: int = 0) -> Ints:
    """Return an assignment that is feasible if the given one is, and costs no more."""
    draw = random.Random(seed)
    best, value = assignment.copy(), cost(problem, assignment, objective)
    improved = True
    while improved and monotonic() < deadline:
        improved = False
        for nodes in _candidates(problem, best, objective, draw):
            if monotonic() > deadline:
                break
            for device in range(problem.devices):
                if device == best[nodes[0]] or not np.isfinite(problem.seconds[nodes, device]).all():
                    continue
                trial = best.copy()
                trial[nodes] = device
                found = cost(problem, trial, objective)
                if found < value * (1 - 1e-9) and is_feasible(problem, trial):
                    best, value, improved = trial, found, True
                    break
    return best


def _candidates(problem: Problem, assignment: Ints, objective: Objective, draw: random.Random) -> list[list[int]]:
    """Sets of nodes to move: single ones, runs of the order, and chains up to a border."""
    if objective == "throughput":
        fullest = int(busy_seconds(problem, assignment).argmax())
        first = [i for i in range(problem.nodes) if assignment[i] == fullest]
    else:
        first = critical_path(problem, assignment)
    crossing = [node for a, b in problem.edges if assignment[a] != assignment[b] for node in (a, b)]
    border = list(dict.fromkeys(crossing))
    draw.shuffle(border)
    singles = [[node] for node in dict.fromkeys([*first, *border])]
    runs = []
    for length in (2, 4, 8, 16, 32, 64):
        for start in range(0, len(first) - length + 1, max(length // 2, 1)):
            part = first[start : start + length]
            if len({int(assignment[node]) for node in part}) == 1:
                runs.append(part)
    draw.shuffle(runs)
    rest = [[node] for node in range(problem.nodes)] if problem.nodes <= 500 else []
    return [*singles, *runs, *rest]


def critical_path(problem: Problem, assignment: Ints) -> list[int]:
    """The nodes that the end waits for, in order: each starts when the one before, or a copy of its result, ends."""
    free = [0.0] * problem.devices
    last_on = [-1] * problem.devices
    ends = [0.0] * problem.nodes
    before = [-1] * problem.nodes
    for node in range(problem.nodes):
        device = int(assignment[node])
        start, cause = free[device], last_on[device]
        for index in problem.reads[node]:
            tensor = problem.tensors[index]
            arrival = problem.transfer(tensor, problem.place(tensor, assignment), device)
            arrival += ends[tensor.producer] if tensor.producer >= 0 else 0.0
            if arrival > start:
                start, cause = arrival, tensor.producer
        ends[node] = free[device] = start + float(problem.seconds[node, device])
        last_on[device], before[node] = node, cause
    path: list[int] = []
    node = int(np.argmax(ends)) if ends else -1
    while node >= 0:
        path.append(node)
        node = before[node]
    return path[::-1]
