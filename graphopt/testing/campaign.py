"""The long mode: thousands of seeded graphs through properties; failures are collected and shrunk, not raised."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.ir import Graph, print_graph
from graphopt.testing.engines import Unsupported
from graphopt.testing.equivalence import is_finite
from graphopt.testing.generate import random_graph
from graphopt.testing.inputs import sample_inputs
from graphopt.testing.shrink import shrink
from graphopt.testing.statistics import GraphStatistics

Property = Callable[[Graph], Any]


@dataclass
class Failure:
    """A property that a graph breaks.

    seed: `random_graph(seed, …)` with the options of the campaign makes the graph. kind: the first line of the message
    without names and numbers. graph: the text of the smallest graph found, for the first failure of each kind.
    """

    seed: int
    property: str
    kind: str
    message: str
    graph: str = ""


@dataclass
class Campaign:
    """Seeded graphs through properties, each a function that raises where a graph breaks it.

    always: properties of every graph. by_turns: of these, each graph sees one. options: those of `graphs`.

    >>> from graphopt.ir import verify
    >>> campaign = Campaign({"verify": verify}, options={"max_nodes": 3})
    >>> campaign.run(5)
    >>> campaign.statistics.graphs, campaign.checks["verify"], campaign.failures
    (5, 5, [])
    """

    always: Mapping[str, Property]
    by_turns: Mapping[str, Property] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    statistics: GraphStatistics = field(default_factory=GraphStatistics)
    checks: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def run(self, count: int, first: int = 0, progress: Callable[[int, int], None] | None = None) -> None:
        """Check the graphs of `count` seeds, then shrink the first failure of each kind.

        progress: called after each graph with the number of graphs and of failures so far.
        """
        turns = list(self.by_turns.items())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in range(first, first + count):
                self._check_graph(seed, turns[seed % len(turns) :][:1] if turns else ())
                if progress is not None:
                    progress(seed - first + 1, len(self.failures))
            self._shrink()

    def _check_graph(self, seed: int, turn: Sequence[tuple[str, Property]]) -> None:
        graph = random_graph(seed, **self.options)
        self.statistics.add(graph, discarded=not is_finite(graph, sample_inputs(graph)))
        for name, property_ in (*self.always.items(), *turn):
            start = time.perf_counter()
            error = failure_of(property_, graph)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            if isinstance(error, Unsupported):
                self.statistics.unsupported[re.sub(r" \(from .*", "", str(error))] += 1
                continue
            self.checks[name] += 1
            if error is not None:
                self.failures.append(Failure(seed, name, kind_of(error), str(error)))

    def _shrink(self) -> None:
        properties = {**self.always, **self.by_turns}
        seen: set[tuple[str, str]] = set()
        for failure in self.failures:
            if (failure.property, failure.kind) not in seen:
                seen.add((failure.property, failure.kind))
                graph = random_graph(failure.seed, **self.options)
                small = shrink(graph, _fails_alike(properties[failure.property], failure.kind))
                failure.graph = print_graph(small, locations=False)


def _fails_alike(property_: Property, kind: str) -> Callable[[Graph], bool]:
    def fails(graph: Graph) -> bool:
        error = failure_of(property_, graph)
        return error is not None and kind_of(error) == kind

    return fails


def failure_of(property_: Property, graph: Graph) -> Exception | None:
    """What a property raises on a graph, or None."""
    try:
        property_(graph)
    except Exception as error:  # whatever is raised is what the property found
        return error
    return None


def kind_of(error: Exception) -> str:
    """The first line of a message without names and numbers: failures of one kind have one cause, mostly."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return re.sub(r"%[\w.\"]+|'\w+_?\d+\w*'|[-+]?\d[\d.]*(e[-+]?\d+)?", "#", text)[:120]
