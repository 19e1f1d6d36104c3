"""Which nodes come before which: the transitive closure of a problem's edges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.passes.partitioning.problem import Floats, Problem

Bits = NDArray[np.uint8]
CHUNK = 512


def ancestors(problem: Problem) -> Bits:
    """The nodes that each node depends on, and itself: [n, ⌈n/8⌉] packed bits, by one union for each edge."""
    found = np.packbits(np.eye(problem.nodes, dtype=bool), axis=1)
    for node, reads in enumerate(problem.reads):
        for producer in {problem.tensors[index].producer for index in reads}:
            if producer >= 0:
                found[node] |= found[producer]
    return found


def before_and_after(problem: Problem, measure: Floats) -> tuple[Floats, Floats]:
    """Sums of a measure over each node with all that it depends on, and over it with all that depends on it: [n]."""
    bits = ancestors(problem)
    before, after = np.zeros(problem.nodes), np.zeros(problem.nodes)
    for start in range(0, problem.nodes, CHUNK):
        rows = np.unpackbits(bits[start : start + CHUNK], axis=1, count=problem.nodes)
        before[start : start + CHUNK] = rows @ measure
        after += measure[start : start + CHUNK] @ rows
    return before, after
