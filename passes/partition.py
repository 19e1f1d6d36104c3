"""Split a graph over the devices of a target.

    %y = f(%x)          %y: T@gpu:0 = f(%x)
    %z = g(%y)    →     %c: T       = graphopt.copy(%y) {device="cpu"}
                        %z: T       = g(%c)

Bitwise: a copy has the same numbers. The problem that is solved stands in `passes/partitioning/problem.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

import numpy as np

from graphopt.analysis import CostModel, bind_sizes
from graphopt.analysis.node_times import NodeSeconds
from graphopt.analysis.placement import copies_of, device_peaks, segments
from graphopt.errors import TargetError, requested
from graphopt.ir import Graph, Trait
from graphopt.passes.partitioning.evaluation import busy_seconds, copies, cost, is_feasible, stored_weights
from graphopt.passes.partitioning.from_graph import GraphProblem, graph_problem
from graphopt.passes.partitioning.ordering import solve_with_order
from graphopt.passes.partitioning.placement import Placement, remove_copies
from graphopt.passes.partitioning.problem import Objective, Problem
from graphopt.passes.partitioning.report import DeviceShare, PartitionReport
from graphopt.passes.partitioning.solver import NoSplit, Split
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter
from graphopt.targets import Target, get_target

FIXED = frozenset([Trait.RANDOM, Trait.EFFECT])
"""What must stay in its order."""


@dataclass(frozen=True)
class Partition(Pass):
    """Give each node a device of the target, with copies where values cross, within the memory of each device.

    target: a name, the path of a file, or a `Target`; by default what the graph is compiled for. One device, or none,
        is nothing to split.
    objective: `serial` adds up all nodes and copies; `latency` is the end of the last one where devices overlap, for
        which nodes may be put into another order; `throughput` is the time between two results of a pipeline with a
        stage a device.
    memory: bytes by device, in the place of what the target says. pin: devices by operator, result or module, with
        `*`: `{"encoder.layer.0"=cpu}`.
    sizes: of symbols; by default those of the example inputs, else the least.
    runs: how many runs the load of a weight that is stored twice is spread over.
    time_limit: seconds for the search. seed: of its random order.

    Raises:
        TargetError: an unknown device, a link that is missing, a node that no device runs; memory that no split fits
            into, with the least that would do.
    """

    contract = Contract.BITWISE

    target: str | Target = ""
    objective: Literal["serial", "latency", "throughput"] = "serial"
    memory: Mapping[str, int] = field(default_factory=dict)
    pin: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    runs: float = 1000.0
    time_limit: float = 20.0
    seed: int = 0

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        with requested():
            target = get_target(self.target or context.target)
            if len(target.devices) < 2 and not self.memory:
                count = "one device" if target.devices else "no devices"
                return PassResult(False, notes=[f"target {target.name!r} has {count}: there is nothing to split"])
            return self._split(graph, target, context)

    def _split(self, graph: Graph, target: Target, context: PassContext) -> PassResult:
        began = monotonic()
        if not target.devices:
            raise TargetError(f"target {target.name!r} describes no devices, so memory limits no split")
        remove_copies(graph, Rewriter(graph, context.listeners))
        costs = CostModel(self._sizes(graph, context))
        built = graph_problem(
            graph, target, NodeSeconds(costs), costs.sizes, memory=self.memory, pin=self.pin, runs=self.runs
        )
        fixed = bool(graph.mutations) or any(node.op.traits & FIXED for node in built.nodes)
        split, order = solve_with_order(
            built.problem, self.objective, fixed=fixed, time_limit=self.time_limit, seed=self.seed
        )
        if isinstance(split, NoSplit):
            raise TargetError(_no_split(split, built.problem, target, self.objective))
        built = built.reordered(graph, order, Rewriter(graph, context.listeners))
        Placement(graph, built, split.assignment, target, context).apply()
        report = _report(graph, built, split, target, self.objective, costs)
        report.seconds = monotonic() - began
        return PassResult(True, notes=[str(report)], details=report)

    def _sizes(self, graph: Graph, context: PassContext) -> dict[str, int]:
        bound = bind_sizes(graph.inputs, context.samples[0]) if context.samples else {}
        return {**bound, **self.sizes}


def _report(
    graph: Graph, built: GraphProblem, split: Split, target: Target, objective: Objective, costs: CostModel
) -> PartitionReport:
    problem, assignment = built.problem, split.assignment
    crossing = copies(problem, assignment)
    stored = stored_weights(problem, assignment)
    sizes = np.array([weight.size for weight in problem.weights], dtype=np.int64)
    seconds, peaks = busy_seconds(problem, assignment), device_peaks(graph, costs.sizes)
    devices = []
    for index, device in enumerate(target.devices):
        limit = problem.limits[index]
        devices.append(
            DeviceShare(
                device.name,
                int((assignment == index).sum()),
                float(seconds[index]),
                int(sizes[stored[:, index]].sum()),
                peaks.get(device.name, 0),
                int(limit) if np.isfinite(limit) else None,
            )
        )
    return PartitionReport(
        target=target.name,
        objective=objective,
        cost=split.cost,
        bound=split.bound,
        gap=split.gap,
        method=split.method,
        seconds=0.0,
        devices=devices,
        alone={device.name: _alone(problem, index, objective) for index, device in enumerate(target.devices)},
        copies=len(list(copies_of(graph))),
        copied_bytes=int(sum(problem.tensors[i].size for i in crossing.tensor)),
        copy_seconds=float(crossing.seconds.sum()),
        duplicated_bytes=int((sizes * np.maximum(stored.sum(axis=1) - 1, 0)).sum()),
        segments=len(segments(graph)),
    )


def _alone(problem: Problem, device: int, objective: Objective) -> float | None:
    assignment = np.full(problem.nodes, device)
    return cost(problem, assignment, objective) if is_feasible(problem, assignment) else None


def _no_split(why: NoSplit, problem: Problem, target: Target, objective: str) -> str:
    if why.factor <= 1.0:
        limits = [d.name for d, busy in zip(target.devices, problem.busy) if np.isfinite(busy)]
        if limits:
            return f"no split of the model keeps {', '.join(limits)} of target {target.name!r} within their energy"
        return f"no split over target {target.name!r} was found for objective={objective}; allow more time_limit"
    named = [(d.name, limit) for d, limit in zip(target.devices, problem.limits) if np.isfinite(limit)]
    given = ", ".join(f"{name} {_bytes(limit)}" for name, limit in named)
    least = ", ".join(f"{name} {_bytes(np.ceil(limit * why.factor))}" for name, limit in named)
    tail = "would do" if why.enough else "at least is needed"
    return f"no split of the model fits into {given}; {why.factor:.4g} times as much, {least}, {tail}"


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= 10 * size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,.0f} bytes"
