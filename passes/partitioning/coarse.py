"""Fewer decisions: nodes that are better kept together get one number."""

from __future__ import annotations

import numpy as np

from graphopt.passes.partitioning.problem import Ints, Problem


def fuse(problem: Problem, most: int) -> Ints:
    """Return a group for each node, at most about `most` groups: chains first, then along the dearest tensors.

    Nodes are fused only if some device runs both. Groups are balanced: none takes much more than its share of the work.
    """
    able = np.isfinite(problem.seconds)
    work = np.where(able, problem.seconds, 0.0).max(axis=1)
    share = 2.0 * float(work.sum()) / max(most, 1)
    root = np.arange(problem.nodes)
    weight, left = work.copy(), problem.nodes

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = int(root[node])
        return node

    def join(a: int, b: int) -> bool:
        a, b = find(a), find(b)
        if a == b or not (able[a] & able[b]).any() or weight[a] + weight[b] > share:
            return False
        root[b] = a
        able[a] &= able[b]
        weight[a] += weight[b]
        return True

    for dearest in (False, True):
        edges = _chains(problem) if not dearest else _by_size(problem)
        for a, b in edges:
            if left <= most:
                break
            left -= join(a, b)
    return np.unique([find(node) for node in range(problem.nodes)], return_inverse=True)[1]


def _chains(problem: Problem) -> list[tuple[int, int]]:
    """Edges between a node and its only consumer."""
    n = problem.nodes
    found = []
    for node, made in enumerate(problem.made):
        consumers = {c for index in made for c in problem.tensors[index].consumers}
        if len(consumers) == 1 and n not in consumers:
            found.append((node, consumers.pop()))
    return found


def _by_size(problem: Problem) -> list[tuple[int, int]]:
    """All edges, those of the largest tensors first."""
    found = [
        (tensor.size, tensor.producer, consumer)
        for tensor in problem.tensors
        if tensor.producer >= 0
        for consumer in tensor.consumers
        if consumer < problem.nodes
    ]
    return [(a, b) for _, a, b in sorted(found, reverse=True)]
