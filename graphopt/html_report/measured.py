"""What takes runs to know, measured for a report: latency, the time of each node, where the error comes from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphopt.analysis import Interpreter
from graphopt.calling import CallingConvention
from graphopt.compiled import CompiledModel
from graphopt.html_report.facts import node_owners
from graphopt.html_report.roofline import Peaks, measure_peaks
from graphopt.ir import Graph, Node
from graphopt.passmanager import Provenance

NODE_ROUNDS = 5


def measure(
    compiled: CompiledModel,
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rounds: int = 5,
    errors: bool = True,
    peaks: Peaks | None = None,
) -> None:
    """Measure a compiled model beside its original, and put what is found into `compiled.report`.

    latency: of both, in turn, in `rounds` rounds. Time of each node: of both graphs, run node by node in PyTorch; an
    engine fuses nodes and has no such times. errors: which pass and which node the error comes from; that needs
    `instruments=[graphopt.passmanager.Provenance()]` at compile time. peaks: of the machine; measured, by default.

    Raises:
        GraphOptError: errors are asked for, and the history was not kept; arguments that don't fit.

    >>> import torch, graphopt
    >>> from graphopt.passmanager import Provenance
    >>> model, x = torch.nn.Linear(4, 4).eval(), torch.ones(1, 4)
    >>> fast = graphopt.compile(model, (x,), target="eager", instruments=[Provenance()])
    >>> measure(fast, model, (x,), rounds=1)
    >>> [row.name for row in fast.report.measured]
    ['original', 'eager']
    """
    from graphopt.debugging import attribute_error
    from graphopt.debugging.runs import kept_history
    from graphopt.measure import compare

    report, kwargs = compiled.report, kwargs or {}
    if errors:
        report.attribution = attribute_error(compiled, args, kwargs)
    report.measured = compare(model, [compiled], args, kwargs, rounds=rounds)
    history = kept_history(compiled)
    graphs = {"before": history.graphs[0]} if history is not None and history.graphs else {}
    report.histories = {} if history is None else node_histories(history)
    graphs["after"] = compiled.graph
    inputs = CallingConvention(compiled.graph).flatten(tuple(args), dict(kwargs))
    report.node_seconds = {name: node_seconds(graph, inputs) for name, graph in graphs.items()}
    report.peaks = peaks or measure_peaks(_device(compiled.graph))


def node_seconds(graph: Graph, inputs: Sequence[Any], rounds: int = NODE_ROUNDS) -> list[float]:
    """Run a graph node by node in PyTorch and return the median time of each, in the order of `graph_facts`.

    A node in a loop counts with all its runs. Of a node with regions, the time of these is not its own.
    """
    clock = _Clock()
    interpreter = Interpreter(graph, observer=clock.seen)
    for _ in range(rounds + 1):  # the first run warms up
        clock.start()
        interpreter.run(*inputs)
    return [statistics.median(clock.times.get(node, [0.0])[1:] or [0.0]) for node, _ in node_owners(graph)]


def node_histories(history: Provenance) -> dict[str, list[str]]:
    """What made or changed the nodes of a run's final graph, oldest first, by the names of their results."""
    found: dict[str, list[str]] = {}
    for node in history.graphs[-1] if history.steps else ():
        events = [str(event) for event in history.history(node).events]
        if events:
            found.update((result.name, events) for result in node.results if result.name)
    return found


class _Clock:
    """Adds up, for each run, the time between what is seen of a node and what was seen before."""

    def __init__(self) -> None:
        self.times: dict[Node, list[float]] = {}
        self.run = -1
        self.last = 0.0

    def start(self) -> None:
        self.run += 1
        self.last = time.perf_counter()

    def seen(self, node: Node, results: Sequence[Any]) -> None:
        for result in results:
            if isinstance(result, torch.Tensor) and result.is_cuda:
                torch.cuda.synchronize(result.device)
        now = time.perf_counter()
        times = self.times.setdefault(node, [])
        times += [0.0] * (self.run + 1 - len(times))
        times[self.run] += now - self.last
        self.last = time.perf_counter()


def _device(graph: Graph) -> str:
    for value in (*graph.inputs, *graph.constants.values()):
        device = getattr(value.type, "device", "cpu")
        if device != "cpu":
            return str(device)
    return "cpu"
