"""Lower bounds of the cost of any assignment."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic

import numpy as np

from graphopt.passes.partitioning.problem import HOME, Floats, Objective, Problem
from graphopt.passes.partitioning.program import relax_program


def path_bound(problem: Problem) -> float:
    """The latency of a machine that has each device as often as it likes:

    e[i, d] = c[i, d] + max over operands of  min_a (e[p, a] + copy from a to d)
    """
    earliest = np.zeros((problem.nodes, problem.devices))
    at_home = np.where(np.arange(problem.devices) == HOME, 0.0, np.inf)

    def arrival(index: int) -> Floats:
        tensor = problem.tensors[index]
        made = at_home if tensor.producer < 0 else earliest[tensor.producer]
        moves = problem.latency + tensor.size * problem.per_byte if tensor.moves else np.zeros_like(problem.latency)
        return np.asarray((made[:, None] + moves).min(axis=0))

    for node, reads in enumerate(problem.reads):
        ready = np.zeros(problem.devices)
        for index in reads:
            ready = np.maximum(ready, arrival(index))
        earliest[node] = ready + problem.seconds[node]
    end = float(earliest.min(axis=1).max(initial=0.0))
    for index, tensor in enumerate(problem.tensors):
        if tensor.consumers and tensor.consumers[-1] == problem.nodes:
            end = max(end, float(arrival(index)[HOME]))
    return end


def lower_bound(problem: Problem, objective: Objective, deadline: float) -> tuple[Floats | None, float]:
    """The shares of devices in each node by the linear relaxation, if there was time for it, and a lower bound; inf
    says that there is no assignment.

    Where the relaxation takes too long, simpler ones count: for latency the work of the devices, then what there is
    without limits, and in the end each node on its best device.
    """
    shares, bound = relax_program(problem, objective, (deadline - monotonic()) * 0.9)
    if shares is None and np.isfinite(bound):
        if problem.is_bounded and objective != "latency":
            free = np.full(problem.devices, np.inf)
            problem = replace(problem, limits=free, busy=free)
        aim = "work" if objective == "latency" else objective
        shares, bound = relax_program(problem, aim, max(deadline - monotonic(), 1.0))
    if objective == "latency":
        return shares, max(bound, path_bound(problem))
    least = problem.seconds.min(axis=1)
    return shares, max(bound, float(least.sum() if objective == "serial" else least.max(initial=0.0)))
