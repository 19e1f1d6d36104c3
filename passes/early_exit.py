"""Stop at the first output that is sure enough.

    y₁ = head₁(x₁),  y₂ = head₂(f(x₁)),  …
    y₂ → y₁ where every row of softmax(y₁) has a probability ≥ threshold, else head₂(f(x₁))

A model with heads at inner points (BranchyNet and its kin) returns all of their logits, the first first. What only
later outputs need runs in the branch of a condition: if the whole batch is sure at an exit, the later outputs hold its
logits, and nothing behind it is computed. The last output is the answer. Lossy, and asked for.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ir.dims import known_equal
from graphopt.ops.effects import is_pure
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter


@dataclass(frozen=True)
class EarlyExit(Pass):
    """Leave out what lies behind the first output whose rows are all sure. threshold: the probability that suffices."""

    contract = Contract.LOSSY
    must_speed_up = True

    threshold: float = 0.9

    def __post_init__(self) -> None:
        with requested():
            if not 0 < self.threshold <= 1:
                raise GraphOptError(f"threshold={self.threshold} is no probability; it lies above 0 and goes up to 1")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place."""
        reason = _refusal(graph)
        if reason is not None:
            return PassResult(False, notes=[reason])
        report = ExitReport(_sure(graph, self.threshold, context))
        rewriter = Rewriter(graph, context.listeners)
        for place in reversed(range(len(graph.outputs) - 1)):
            self._exit(graph, place, rewriter)
        return PassResult(rewriter.changed, notes=[str(report)], details=report)

    def _exit(self, graph: Graph, place: int, rewriter: Rewriter) -> None:
        """Make what only the outputs after `place` need a branch."""
        outputs = graph.outputs
        logits, later = outputs[place], outputs[place + 1 :]
        only_later = _makers(later) - _makers(outputs[: place + 1])
        rest = [node for node in graph if node in only_later]
        if not rest:
            return
        inside = {result for node in rest for result in node.results}
        read = [v for node in rest for v in node.inputs if v not in inside]
        captured = list(dict.fromkeys([logits, *read, *(v for v in later if v not in inside)]))
        regions = (
            _region("exit", captured, [], [logits] * len(later)),
            _region("go_on", captured, rest, list(later)),
        )
        with rewriter.at(graph.terminator, self.name):
            chances = rewriter.create("aten.softmax.int", logits, -1).result
            rank = logits.type.rank  # type: ignore[union-attr]
            surest = rewriter.create("aten.amax", chances, (-1,)).result
            least = rewriter.create("aten.amin", surest, tuple(range(rank - 1))).result if rank > 1 else surest
            sure = rewriter.create("aten.ge.Scalar", least, self.threshold).result
            branch = rewriter.create("higher_order.cond", sure, captured, regions=regions)
        graph.set_outputs([*outputs[: place + 1], *branch.results])
        for node in reversed(rest):
            rewriter.erase(node)


def _refusal(graph: Graph) -> str | None:
    """Why a graph has no exits, or None."""
    outputs = graph.outputs
    if len(outputs) < 2:
        return "the model has one output; an exit is an output that stands before the last"
    if graph.mutations:
        return "the model updates a buffer, which a branch cannot"
    first = outputs[0].type
    for value in outputs:
        type_ = value.type
        if not isinstance(type_, TensorType) or not type_.dtype.is_floating or not type_.rank:
            return f"output %{value.name} holds no logits"
        assert isinstance(first, TensorType)
        same = type_.rank == first.rank and all(map(known_equal, type_.shape, first.shape))
        if not same or type_.dtype is not first.dtype:
            return f"output %{value.name} is {type_!r} and the first {first!r}; exits are alike"
    impure = next((node for node in graph if node.regions or not is_pure(node)), None)
    return None if impure is None else f"{impure!r} may do more than compute its results"


def _makers(values: tuple[Value, ...]) -> set[Node]:
    found: set[Node] = set()
    pending = list(values)
    while pending:
        node = pending.pop().producer
        if node is not None and node not in found:
            found.add(node)
            pending += node.inputs
    return found


def _region(name: str, captured: list[Value], nodes: list[Node], outputs: list[Value]) -> Graph:
    """A graph of its own that computes some nodes from what it captures."""
    region = Graph(name)
    inside: dict[Value, Value] = {
        value: region.add_input(f"c{index}", value.type) for index, value in enumerate(captured)
    }
    for node in nodes:
        region.append(node.copy(inside, tuple(r.clone() for r in node.regions)))
    region.set_outputs([inside[value] for value in outputs])
    return region


@dataclass(frozen=True)
class ExitReport:
    """sure: by exit, the share of samples that leave there or before; None where there are no samples."""

    sure: tuple[float, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.sure is None:
            return "how many inputs leave early is not known without example inputs"
        return "samples that have left at each exit: " + ", ".join(f"{share:.0%}" for share in self.sure)


def _sure(graph: Graph, threshold: float, context: PassContext) -> tuple[float, ...] | None:
    if not context.samples:
        return None
    rows = []
    for inputs in context.samples:
        exits = run_graph(graph, *inputs)[: len(graph.outputs) - 1]
        rows.append([bool((torch.softmax(y, -1).amax(-1) >= threshold).all()) for y in exits])
    left = torch.tensor(rows).cummax(1).values.float().mean(0)
    return tuple(left.tolist())
