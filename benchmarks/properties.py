"""The long mode of the property tests: thousands of generated graphs through the IR, the passes and the backends.

Each graph is verified, printed and parsed, saved and loaded; run through the default pipeline of each target, through
one registered pass by turns, through FX and through ONNX Runtime with its graph optimizations off; and every result
is held to the interpreter, with float64 as the referee, at two sizes of each symbolic dim. A failure is shrunk and
printed with its seed: `random_graph(seed)` makes the graph again.

The bar: 5,000 graphs without a failure.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common import parse_args, print_table, write_json
from graphopt.ir import Graph, print_graph
from graphopt.testing import GraphStatistics, Unsupported, is_finite, random_graph, sample_inputs, shrink
from graphopt.testing.suite import backend_properties, graph_properties, pass_properties, pipeline_properties

PROGRESS = 500


@dataclass
class Failure:
    """A property that a graph breaks, the seed of the graph, and the smallest graph found that breaks it alike."""

    seed: int
    property: str
    kind: str
    message: str
    graph: str = ""


@dataclass
class Run:
    """What a run came to."""

    statistics: GraphStatistics = field(default_factory=GraphStatistics)
    checks: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    def check(self, name: str, property_: Callable[[Graph], None], seed: int, graph: Graph) -> None:
        start = time.perf_counter()
        error = failure_of(property_, graph)
        self.seconds[name] += time.perf_counter() - start
        if isinstance(error, Unsupported):
            self.statistics.unsupported[re.sub(r" \(from .*", "", str(error))] += 1
            return
        self.checks[name] += 1
        if error is not None:
            self.failures.append(Failure(seed, name, kind_of(error), str(error)))


def failure_of(property_: Callable[[Graph], None], graph: Graph) -> Exception | None:
    try:
        property_(graph)
    except Exception as error:  # whatever is raised is what the property found
        return error
    return None


def kind_of(error: Exception) -> str:
    """The first line of the message without names and numbers: failures of one kind have one cause, mostly."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return re.sub(r"%[\w.\"]+|'\w+_?\d+\w*'|[-+]?\d[\d.]*(e[-+]?\d+)?", "#", text)[:120]


def run(count: int, first: int, max_nodes: int) -> Run:
    found = Run()
    always = {**graph_properties(), **pipeline_properties(), **backend_properties()}
    by_turns = list(pass_properties().items())
    for seed in range(first, first + count):
        graph = random_graph(seed, max_nodes=max_nodes)
        found.statistics.add(graph, discarded=not is_finite(graph, sample_inputs(graph)))
        for name, property_ in (*always.items(), by_turns[seed % len(by_turns)]):
            found.check(name, property_, seed, graph)
        if (seed - first + 1) % PROGRESS == 0:
            print(f"{seed - first + 1} graphs, {len(found.failures)} failures", file=sys.stderr, flush=True)
    shrink_first_of_kind(found, {**always, **dict(by_turns)}, max_nodes)
    return found


def shrink_first_of_kind(found: Run, properties: dict[str, Callable[[Graph], None]], max_nodes: int) -> None:
    seen: set[tuple[str, str]] = set()
    for failure in found.failures:
        key = (failure.property, failure.kind)
        if key in seen:
            continue
        seen.add(key)
        property_ = properties[failure.property]

        def fails(graph: Graph, property_: Any = property_, kind: str = failure.kind) -> bool:
            error = failure_of(property_, graph)
            return error is not None and kind_of(error) == kind

        small = shrink(random_graph(failure.seed, max_nodes=max_nodes), fails, attempts=200)
        failure.graph = print_graph(small, locations=False)


def report(found: Run) -> None:
    print(found.statistics)
    counts = found.statistics.operators.most_common()
    print_table("operators", ("operator", "nodes"), counts)
    rows = [(name, found.checks[name], found.seconds[name]) for name in found.seconds]
    print_table("properties", ("property", "graphs", "seconds"), rows)
    for failure in found.failures:
        if failure.graph:
            print(f"{failure.property}, seed {failure.seed}: {failure.message}\n{failure.graph}\n")
    print(f"{found.statistics.graphs} graphs, {sum(found.checks.values())} checks, {len(found.failures)} failures")


def main() -> None:
    options = parse_args(
        __doc__,
        ("--graphs", {"type": int, "default": 5000, "help": "how many graphs (default: 5000)"}),
        ("--first", {"type": int, "default": 0, "metavar": "SEED", "help": "the first seed (default: 0)"}),
        ("--max-nodes", {"type": int, "default": 8, "help": "calls drawn for a graph, at most (default: 8)"}),
    )
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    found = run(50 if options.quick else options.graphs, options.first, options.max_nodes)
    report(found)
    print(f"{time.perf_counter() - start:.0f} s")
    write_json(options.json, "properties", found)
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
