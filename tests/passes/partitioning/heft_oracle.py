"""HEFT as Topcuoglu, Hariri and Wu (2002) state it, written from the paper: an oracle that shares no code with the
partitioner. Returns when the last task, or the way back of what is returned, ends."""

from __future__ import annotations

import numpy as np

from graphopt.passes.partitioning.problem import Problem


def heft_makespan(problem: Problem) -> tuple[float, list[int]]:
    """The end of the schedule, and the device of each node."""
    n, devices = problem.nodes, range(problem.devices)
    pairs = [(a, b) for a in devices for b in devices if a != b]

    def communication(index: int, a: int, b: int) -> float:
        tensor = problem.tensors[index]
        if a == b or not tensor.moves:
            return 0.0
        return float(problem.latency[a, b] + problem.per_byte[a, b] * tensor.size)

    def mean_communication(index: int) -> float:
        return float(np.mean([communication(index, a, b) for a, b in pairs])) if pairs else 0.0

    upward = [0.0] * n
    for task in reversed(range(n)):
        costs = [c for c in problem.seconds[task] if np.isfinite(c)]
        successors = [
            mean_communication(index) + upward[successor]
            for index, tensor in enumerate(problem.tensors)
            if tensor.producer == task
            for successor in tensor.consumers
            if successor < n
        ]
        upward[task] = float(np.mean(costs)) + max(successors, default=0.0)

    busy: list[list[tuple[float, float]]] = [[] for _ in devices]
    placed, finish = [0] * n, [0.0] * n
    for task in sorted(range(n), key=lambda i: (-upward[i], i)):
        options = []
        for device in devices:
            length = float(problem.seconds[task, device])
            if not np.isfinite(length):
                continue
            ready = 0.0
            for index, tensor in enumerate(problem.tensors):
                if task in tensor.consumers:
                    source = 0 if tensor.producer < 0 else placed[tensor.producer]
                    made = 0.0 if tensor.producer < 0 else finish[tensor.producer]
                    ready = max(ready, made + communication(index, source, device))
            begin = ready
            for start, end in sorted(busy[device]):
                if begin + length <= start:
                    break
                begin = max(begin, end)
            options.append((begin + length, device, begin))
        end, device, begin = min(options)
        placed[task], finish[task] = device, end
        busy[device].append((begin, end))
    returned = [
        (finish[t.producer] if t.producer >= 0 else 0.0)
        + communication(index, placed[t.producer] if t.producer >= 0 else 0, 0)
        for index, t in enumerate(problem.tensors)
        if n in t.consumers
    ]
    return max([*finish, *returned], default=0.0), placed
