"""Shrinking a graph that fails to a small one that still fails, without the choices that made it."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.ir import Graph
from graphopt.passmanager.shrink import Case
from graphopt.passmanager.shrink import shrink as shrink_case

Fails = Callable[[Graph], bool]


def shrink(graph: Graph, fails: Fails, *, attempts: int = 400) -> Graph:
    """Return a graph, no larger than the given one, on which `fails` is still true.

    Nodes are cut off, outputs dropped, results replaced by operands of their own type, attributes put to their
    defaults, and sizes made smaller. Each candidate is verified before it is tried.
    """
    return shrink_case(
        Case(graph, None), (), lambda case: fails(case.graph), runs=attempts, seconds=math.inf
    ).case.graph
