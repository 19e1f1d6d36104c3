"""The search: candidates are tried one by one, the smallest that fails is kept, and both runs and time are bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.ir import Node
from graphopt.passmanager.shrink.case import Case

Fails = Callable[[Case], bool]
"""Whether a case fails as the original does."""

RUNS = 200
SECONDS = 60.0


class Spent(Exception):
    """No runs or no time are left."""


@dataclass(frozen=True)
class Shrunk:
    """What a search ended with. fails: whether any candidate failed at all; if not, `case` is the original."""

    case: Case
    fails: bool
    runs: int
    seconds: float


class Search:
    """The smallest failing case so far. `accept` tries a candidate."""

    def __init__(self, case: Case, fails: Fails, runs: int = RUNS, seconds: float = SECONDS) -> None:
        self.best = case
        self.fails = fails
        self.found = False
        self.runs = 0
        self._limit = runs
        self._start = time.monotonic()
        self._seconds = seconds

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._start

    def accept(self, candidate: Case | None) -> bool:
        """Keep a candidate if it fails; None is no candidate.

        Raises:
            Spent: the bound is reached.
        """
        if candidate is None:
            return False
        if self.runs >= self._limit or self.seconds >= self._seconds:
            raise Spent
        self.runs += 1
        if not self.fails(candidate):
            return False
        self.best, self.found = candidate, True
        return True


def shrink(case: Case, roots: Sequence[Node], fails: Fails, *, runs: int = RUNS, seconds: float = SECONDS) -> Shrunk:
    """Return a small case that fails as the given one does.

    roots: the nodes of its graph to start from; without any, the whole graph is the start.
    runs, seconds: the most calls of `fails`, and the most time, that the search may take.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[8, 64]
    ... %a = aten.neg(%x)
    ... %b = aten.softmax.int(%a) {dim=0}
    ... %c = aten.relu(%b)
    ... return %c''')
    >>> found = shrink(Case(graph, None), [graph.nodes[1]], lambda c: "softmax" in str(c.graph))
    >>> print(found.case.graph)
    graph main {
      input %a: f32[1, 1]
      %b: f32[1, 1] = aten.softmax.int(%a) {dim=0}
      return %b
    }
    """
    from graphopt.passmanager.shrink.grow import neighbourhoods
    from graphopt.passmanager.shrink.nodes import reduce_nodes
    from graphopt.passmanager.shrink.sizes import reduce_sizes
    from graphopt.passmanager.shrink.values import reduce_values

    search = Search(case, fails, runs, seconds)
    try:
        if any(search.accept(start) for start in neighbourhoods(case, roots)):
            before = None
            while before is not search.best:
                before = search.best
                reduce_nodes(search)
                reduce_sizes(search)
            reduce_values(search)
    except Spent:
        pass
    return Shrunk(search.best, search.found, search.runs, search.seconds)
