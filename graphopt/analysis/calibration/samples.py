"""Measuring nodes where they stand: each kernel of a run of the interpreter, over several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from graphopt.analysis.bindings import bind_sizes
from graphopt.analysis.cost import CostModel
from graphopt.analysis.interpreter import Interpreter
from graphopt.analysis.placement import REORDERING, viewed_value
from graphopt.ir import DType, Graph, Node, TensorType, Trait, Value
from graphopt.ir.dims import evaluate

RUNS = 7
"""Timed runs, at least."""
MOST_SECONDS = 2.0
"""Runs end after so long, three at least."""
LONG_AGO = 200
"""Nodes after which caches have forgotten a kernel."""


@dataclass(frozen=True)
class Sample:
    """One node: what it is to be told apart by, its operations, bytes, and seconds.

    key: the operator and the kind of kernel. family: a coarser kind. width: the size of the last dim of the result.
    since: how many nodes ago the operator ran last, at most `LONG_AGO`; 1 if just before.
    """

    key: str
    family: str
    flops: float
    bytes: float
    seconds: float
    width: float = 1.0
    since: int = 1


def measure_nodes(graph: Graph, inputs: Sequence[Any], runs: int = RUNS) -> dict[Node, Sample]:
    """Measure each node of a graph on inputs in graph order; nodes that hold graphs as a whole."""
    return _measure([(graph, inputs)], runs)


def measure_in_turn(graphs: Sequence[tuple[Graph, Sequence[Any]]], runs: int = RUNS) -> list[Sample]:
    """Measure the nodes of several graphs that run by turns, so that none finds its kernels in the caches."""
    measured = _measure(graphs, runs)
    samples = []
    for graph, _ in graphs:
        for position, node in enumerate(graph):
            if (sample := measured.get(node)) is not None:
                samples.append(replace(sample, since=LONG_AGO) if sample.since > position else sample)
    return samples


def _measure(graphs: Sequence[tuple[Graph, Sequence[Any]]], runs: int) -> dict[Node, Sample]:
    stopwatches = [_Stopwatch(graph) for graph, _ in graphs]
    began = 0.0
    for count in range(max(runs, 3) + 1):
        for stopwatch, (_, inputs) in zip(stopwatches, graphs):
            stopwatch.run(*inputs)
            if count == 0:  # the first run warms up
                stopwatch.times.clear()
        began = began or perf_counter()
        if count >= 3 and perf_counter() - began > MOST_SECONDS:
            break
    found = {}
    for stopwatch, (graph, inputs) in zip(stopwatches, graphs):
        costs = CostModel(bind_sizes(graph.inputs, inputs))
        found.update({n: sample_of(n, costs, undisturbed(times)) for n, times in stopwatch.times.items()})
    return found


def undisturbed(times: Sequence[float]) -> float:
    """The lower quartile: what a node takes when nothing else runs. Whatever disturbs only adds."""
    return sorted(times)[len(times) // 4]


class _Stopwatch(Interpreter):
    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.times: dict[Node, list[float]] = {}

    def _call(self, node: Node, kernel: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        start = perf_counter()
        result = kernel(*args, **kwargs)
        taken = perf_counter() - start
        if node.graph is self.graph:
            self.times.setdefault(node, []).append(taken)
        return result


def sample_of(node: Node, costs: CostModel, seconds: float = 0.0) -> Sample:
    """The features of a node. A view counts the bytes of its result: some views copy."""
    cost = costs.node(node)
    moved = float(cost.bytes)
    if Trait.VIEW in node.op.traits:
        moved = float(sum(costs.sizes.bytes(result.type) for result in node.results))
    return Sample(
        key=key_of(node),
        family=family_of(node),
        flops=float(cost.flops),
        bytes=moved,
        seconds=seconds,
        width=_width(node, costs),
        since=_since(node),
    )


def _width(node: Node, costs: CostModel) -> float:
    type_ = node.results[0].type if node.results else None
    if not isinstance(type_, TensorType) or not type_.shape:
        return 1.0
    last = type_.shape[-1]
    return float(last if isinstance(last, int) else evaluate(last, costs.sizes.bindings))


def _since(node: Node) -> int:
    """Back to the last node with the same operator; beyond the first node is the last one of an earlier run."""
    before = node
    for count in range(1, LONG_AGO):
        previous = before._prev or (None if node.graph is None else next(reversed(node.graph), None))
        if previous is None or previous.op is node.op:
            return count
        before = previous
    return LONG_AGO


def operator_of(key: str) -> str:
    """The operator of a key, without overload and kind."""
    return ".".join(key.partition("/")[0].split(".")[:2])


def key_of(node: Node) -> str:
    """The operator and what else decides which kernel runs: how a convolution sees its channels, whether a view has to
    copy, whether operands are broadcast or not contiguous, a dtype other than f32."""
    kinds = [_kind(node), "strided" if any(map(is_strided, node.inputs)) else ""]
    types = [v.type for v in (*node.results, *node.inputs) if isinstance(v.type, TensorType)]
    if types and types[0].dtype is not DType.F32:
        kinds.append(types[0].dtype.value)
    return "/".join([node.op.name, *[kind for kind in kinds if kind]])


def _kind(node: Node) -> str:
    shapes = [v.type.shape for v in node.inputs if isinstance(v.type, TensorType)]
    if "conv" in node.op.name and len(shapes) > 1 and len(shapes[1]) > 2:
        weight = shapes[1]
        kind = "by-channel" if weight[1] == 1 else "by-pixel" if set(weight[2:]) == {1} else "window"
        return kind if set(node.attributes.get("stride") or (1,)) == {1} else f"{kind} by steps"
    if Trait.VIEW in node.op.traits:
        return "" if viewed_value(node) is not None else "copy"
    if Trait.ELEMENTWISE in node.op.traits and len(set(shapes)) > 1:
        return "number" if () in shapes else "broadcast"
    return ""


SCATTERING = REORDERING | frozenset(["select", "slice", "narrow", "split", "chunk", "unbind", "unfold", "diagonal"])
"""Views whose elements do not lie side by side."""


def is_strided(value: Value) -> bool:
    """Whether views leave the elements of a value in another order than that of its dims, or apart."""
    node = value.producer
    while node is not None and viewed_value(node) is not None:
        if node.op.name.split(".")[1] in SCATTERING:
            return True
        base = node.operands[0]
        node = None if base is None else base.producer
    return False


def family_of(node: Node) -> str:
    """What operators of one family have in common is enough to guess one that was never measured."""
    traits = node.op.traits
    if Trait.VIEW in traits:
        return "copy" if viewed_value(node) is None else "view"
    if Trait.ELEMENTWISE in traits:
        return "elementwise"
    name = node.op.name
    return next((f for f in ("conv", "mm", "linear", "norm", "softmax", "pool", "attention") if f in name), "other")
