"""A placed graph as steps: what one device computes at a stretch, and copies between devices.

Steps stand in the order of the graph, and so do the nodes of a device: what a device holds at once is what the order of
the graph says. A device's nodes are cut where something is copied to it, so that only what comes behind waits, and
where something is copied away, so that the copy starts at once. Every step depends on steps before it alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphopt.analysis.placement import node_device, type_device
from graphopt.backends.fx.names import parameter_names
from graphopt.backends.fx.sizes import free_symbols
from graphopt.ir import Constant, Graph, Node, ScalarKind, ScalarType, Symbol, Value
from graphopt.ir.dim_expr import from_symbol
from graphopt.ir.types import on_device
from graphopt.ops.copy import COPY


@dataclass(frozen=True)
class Compute:
    """Nodes that a device runs one after another, as a graph of their own.

    taken, weights, symbols: the values of the whole that it reads, in the order of the part's inputs and constants;
    symbols come behind the values taken. given: those that others read.
    """

    device: str
    part: Graph
    nodes: tuple[Node, ...]
    taken: tuple[Value, ...]
    symbols: tuple[Symbol, ...]
    weights: tuple[Value, ...]
    given: tuple[Value, ...]


@dataclass(frozen=True)
class Transfer:
    """A copy of a value to another device."""

    source: str
    device: str
    taken: Value
    given: Value


Step = Compute | Transfer
Limit = Callable[[str], int | None]
"""How many bytes of weights a step on a device may read at most; None for any number."""


def devices_of(graph: Graph, home: str) -> dict[Node, str]:
    """Where each node runs. One without tensors stands with what it reads, or at home."""
    found: dict[Node, str] = {}
    for node in graph:
        before = (found[v.producer] for v in node.inputs if v.producer is not None)
        found[node] = node_device(node) or next(before, home)
    return found


def steps_of(graph: Graph, home: str, names: Mapping[str, str], limit: Limit = lambda device: None) -> list[Step]:
    """Cut a placed graph into steps.

    names: what PyTorch calls each device. limit: of the weights of a step.
    """
    device = devices_of(graph, home)
    states = {graph.constants[name] for name in graph.mutations if name in graph.constants}
    found: list[Step] = []
    for run in _runs(graph, device, limit):
        if run[0].op.name == COPY:
            (node,) = run
            (source,) = node.inputs
            found.append(Transfer(_value_device(source, device, home), device[node], source, node.result))
        else:
            found.append(_compute(graph, run, device[run[0]], names, states))
    return found


def _value_device(value: Value, device: Mapping[Node, str], home: str) -> str:
    return type_device(value.type) or (device[value.producer] if value.producer is not None else home)


def _runs(graph: Graph, device: Mapping[Node, str], limit: Limit) -> Iterator[list[Node]]:
    """Groups of nodes in an order in which they can run: each copy alone, what a device runs at a stretch together."""
    running: dict[str, list[Node]] = {}
    read: dict[str, int] = {}
    for node in graph:
        place = device[node]
        ends = {device[v.producer] for v in node.inputs if v.producer is not None} - {place}
        if node.op.name == COPY:
            ends.add(place)
        weights = sum(v.constant.tensor.nbytes for v in dict.fromkeys(node.inputs) if v.constant is not None)
        most = limit(place)
        if most is not None and read.get(place, 0) + weights > most:
            ends.add(place)
        for end in sorted(ends & running.keys()):
            read.pop(end, None)
            yield running.pop(end)
        if node.op.name == COPY:
            yield [node]
        else:
            running.setdefault(place, []).append(node)
            read[place] = read.get(place, 0) + weights
    yield from running.values()


def _compute(graph: Graph, nodes: Sequence[Node], device: str, names: Mapping[str, str], states: set[Value]) -> Compute:
    inside = set(nodes)
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v.producer not in inside)
    taken = [v for v in read if v.constant is None or v in states]
    weights = [v for v in read if v.constant is not None and v not in states]
    given = [r for n in nodes for r in n.results if any(use.node not in inside for use in r.uses)]
    part = Graph(graph.name)
    values: dict[Value, Value] = {}
    for value, name in zip(taken, parameter_names([v.name or "value" for v in taken])):
        values[value] = part.add_input(name, on_device(value.type, names[device]))
    for value in weights:
        values[value] = part.add_constant(value.name, on_device(value.type, names[device]), _stored(value))
    for node in nodes:
        _move(part.append(node.copy(values, tuple(region.clone() for region in node.regions))), names[device])
    part.set_outputs([values[value] for value in given])
    symbols = free_symbols(part)
    for symbol in symbols:
        part.add_input(symbol.name, ScalarType(ScalarKind.INT, from_symbol(symbol)))
    return Compute(device, part, tuple(nodes), tuple(taken), symbols, tuple(weights), tuple(given))


def _stored(value: Value) -> Constant:
    assert value.constant is not None
    return value.constant


def _move(node: Node, name: str) -> None:
    for result in node.results:
        result.type = on_device(result.type, name)
    if node.attributes.get("device") is not None:
        node.attributes = node.attributes.updated(device=name)
    for region in node.regions:
        for value in (*region.inputs, *region.constants.values()):
            value.type = on_device(value.type, name)
        for inner in region:
            _move(inner, name)
