"""The partition problem of a graph and a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import numpy as np

from graphopt.analysis.liveness import peak_memory
from graphopt.analysis.placement import viewed_value
from graphopt.analysis.roofline import NodeTimes, node_dtype
from graphopt.analysis.sizes import TypeSizes
from graphopt.errors import GraphOptError, TargetError, unknown_name
from graphopt.ir import DType, Graph, Node, ScalarType, TensorType, Trait, Value
from graphopt.passes.partitioning.problem import CALLER, HOME, Floats, Ints, Problem, Tensor, Weight
from graphopt.rewrite import Rewriter
from graphopt.targets import Device, Target


@dataclass(frozen=True)
class GraphProblem:
    """A problem, and what its numbers stand for: nodes in order, the values of its tensors, the constants of its
    weights."""

    problem: Problem
    nodes: tuple[Node, ...]
    values: tuple[Value, ...]
    constants: tuple[Value, ...]

    def reordered(self, graph: Graph, order: Ints, rewriter: Rewriter) -> GraphProblem:
        """Put the nodes of the graph into another order, and return its problem."""
        if (order == np.arange(len(order))).all():
            return self
        nodes = tuple(self.nodes[position] for position in order)
        for node in nodes:
            rewriter.move_before(node, graph.terminator)
        return replace(self, problem=self.problem.reordered(order), nodes=nodes)


def graph_problem(
    graph: Graph,
    target: Target,
    times: NodeTimes,
    sizes: TypeSizes,
    *,
    memory: Mapping[str, int],
    pin: Mapping[str, str],
    runs: float,
) -> GraphProblem:
    """Put a graph into numbers.

    memory: limits in bytes, in the place of those of the target. pin: device by a pattern that matches the operator,
    result or module of a node.

    Raises:
        TargetError: a device or link that the target does not have, a node that no device can run.
        UnknownNameError: a pattern that matches no node.
    """
    nodes = graph.nodes
    latency, per_byte = _links(target)
    limits = _limits(target, memory)
    order = {node: position for position, node in enumerate(nodes)}
    order[graph.terminator] = len(nodes)
    values, tensors = _tensors(graph, order, sizes)
    constants = [v for v in graph.constants.values() if v.num_uses and v.name not in graph.mutations]
    inner = [(sizes.bytes(v.type), order[node]) for node in nodes for v in _inner_constants(node)]
    weights = [Weight(sizes.bytes(v.type), _consumers(v, order)) for v in constants]
    problem = Problem(
        seconds=_seconds(nodes, target, times, pin),
        tensors=tuple(tensors),
        weights=(*weights, *[Weight(size, (node,)) for size, node in inner]),
        latency=latency,
        per_byte=per_byte,
        limits=limits,
        busy=np.array([device.busy for device in target.devices]),
        extra=np.array([max((peak_memory(r, sizes) for r in node.regions), default=0) for node in nodes], dtype=float),
        runs=runs,
    )
    return GraphProblem(problem, nodes, tuple(values), tuple(constants))


def _tensors(graph: Graph, order: dict[Node, int], sizes: TypeSizes) -> tuple[list[Value], list[Tensor]]:
    """Inputs and what the graph updates come from the caller; then the results of nodes. In the end a tensor without
    bytes, which stands for all constants: a view of one takes nothing where it is made."""
    values = [*graph.inputs, *[graph.constants[name] for name in graph.mutations if name in graph.constants]]
    values += [result for node in graph for result in node.results]
    number = {value: index for index, value in enumerate(values)}
    tensors = []
    for value in values:
        producer = CALLER if value.producer is None else order[value.producer]
        viewed = None if value.producer is None else viewed_value(value.producer)
        base = -1 if viewed is None else number.get(viewed, len(values))
        moves = not isinstance(value.type, ScalarType)
        tensors.append(Tensor(producer, sizes.bytes(value.type), _consumers(value, order), base, moves))
    return values, [*tensors, Tensor(CALLER, 0, ())]


def _consumers(value: Value, order: dict[Node, int]) -> tuple[int, ...]:
    return tuple(sorted({order[use.node] for use in value.uses}))


def _inner_constants(node: Node) -> list[Value]:
    found = []
    for region in node.regions:
        found += list(region.constants.values())
        found += [value for inner in region for value in _inner_constants(inner)]
    return found


def _links(target: Target) -> tuple[Floats, Floats]:
    count = len(target.devices)
    latency, per_byte = np.zeros((count, count)), np.zeros((count, count))
    for a, source in enumerate(target.devices):
        for b, sink in enumerate(target.devices):
            if a != b:
                link = target.link(source.name, sink.name)
                latency[a, b], per_byte[a, b] = link.latency, 1.0 / link.bandwidth
    return latency, per_byte


def _limits(target: Target, memory: Mapping[str, int]) -> Floats:
    for name, limit in memory.items():
        target.device(name)
        if limit <= 0:
            raise GraphOptError(f"the memory of {name} must be a positive number of bytes, got {limit}")
    given = [memory.get(device.name, device.memory) for device in target.devices]
    return np.array([np.inf if limit is None else limit for limit in given], dtype=float)


def _seconds(nodes: tuple[Node, ...], target: Target, times: NodeTimes, pin: Mapping[str, str]) -> Floats:
    """[n, D]: inf where a device cannot run a node, or where it is pinned to another."""
    pinned = _pinned(nodes, target, pin)
    seconds = np.full((len(nodes), len(target.devices)), np.inf)
    for row, node in enumerate(nodes):
        for column, device in enumerate(target.devices):
            if pinned.get(node, device) is device and _runs(node, target, column):
                seconds[row, column] = times.seconds(node, device)
        if not np.isfinite(seconds[row]).any():
            raise TargetError(_refusal(node, target, pinned.get(node)))
    return seconds


def _runs(node: Node, target: Target, column: int) -> bool:
    """Whether a device can run a node. A view moves nothing, so any can; what is no tensor stays at home."""
    if not all(_is_portable(value) for value in (*node.results, *node.inputs)):
        return column == HOME
    device = target.devices[column]
    names = {node.op.name, *(inner for region in node.regions for inner in _operators(region))}
    if Trait.VIEW in node.op.traits:
        return True
    return all(target.can_run(device, name, node_dtype(node)) for name in names)


def _is_portable(value: Value) -> bool:
    type_ = value.type
    return isinstance(type_, ScalarType) or (isinstance(type_, TensorType) and type_.dtype is not DType.STRING)


def _operators(graph: Graph) -> set[str]:
    found = {node.op.name for node in graph}
    for node in graph:
        for region in node.regions:
            found |= _operators(region)
    return found


def _pinned(nodes: tuple[Node, ...], target: Target, pin: Mapping[str, str]) -> dict[Node, Device]:
    found: dict[Node, Device] = {}
    for pattern, name in pin.items():
        device = target.device(name)
        matched = [node for node in nodes if any(fnmatchcase(n, pattern) for n in _names(node))]
        if not matched:
            known = {n for node in nodes for n in _names(node)}
            raise unknown_name("node", pattern, sorted(known), "It is to be pinned, and no node is called so.")
        found.update(dict.fromkeys(matched, device))
    return found


def _names(node: Node) -> list[str]:
    """The operator of a node, its results, and the modules that it is in."""
    scope = node.location.scope
    parts = scope.split(".")
    modules = [".".join(parts[: i + 1]) for i in range(len(parts))] if scope else []
    return [node.op.name, *(r.name for r in node.results if r.name), *modules]


def _refusal(node: Node, target: Target, pinned: Device | None) -> str:
    where = f"from {node.location}"
    if pinned is not None:
        return f"{node.op.name} is pinned to {pinned.name}, which cannot run it in {node_dtype(node)} ({where})"
    names = ", ".join(device.name for device in target.devices)
    return (
        f"no device of target {target.name!r} ({names}) runs {node.op.name} in {node_dtype(node)} ({where}); "
        "add a capability or a device"
    )
