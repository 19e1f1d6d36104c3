"""Shrinking a graph that fails to a small one that still fails, without the choices that made it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from graphopt.ir import Graph, TensorType, verify
from graphopt.ir.dims import from_symbol
from graphopt.ir.printer import all_symbols

Fails = Callable[[Graph], bool]


def shrink(graph: Graph, fails: Fails, *, attempts: int = 400) -> Graph:
    """Return a graph, no larger than the given one, on which `fails` is still true.

    Outputs are dropped, results are replaced by operands of their own type or by new inputs, and what is then unused
    goes. Each candidate is verified before it is tried.
    """
    best, left, progress = graph, attempts, True
    while progress and left > 0:
        progress = False
        for candidate in _candidates(best):
            left -= 1
            if left < 0:
                break
            if fails(candidate):
                best, progress = candidate, True
                break
    return best


def clean(graph: Graph) -> Graph:
    """Drop nodes, constants and inputs that nothing uses, but for inputs that bind symbols."""
    for node in reversed(graph):
        if not any(r.num_uses for r in node.results):
            graph.erase(node)
    for name, value in list(graph.constants.items()):
        if not value.num_uses and name not in graph.mutations:
            del graph.constants[name]
    used = {from_symbol(s) for s in all_symbols(graph)}
    kept = []
    for value in graph.inputs:
        binds = isinstance(value.type, TensorType) and any(d in used for d in value.type.shape)
        if value.num_uses or binds or value.name in graph.mutations:
            kept.append(value)
    graph.inputs[:] = kept
    return graph


def _candidates(graph: Graph) -> Iterator[Graph]:
    """Smaller graphs, most radical first."""
    count, cleaned = len(graph.returned), clean(graph.clone())
    if len(cleaned) + len(cleaned.inputs) < len(graph) + len(graph.inputs):
        yield cleaned
    if count > 1 and not graph.mutations:
        for index in range(count):
            copy = graph.clone()
            copy.set_outputs([copy.outputs[index]])
            yield from _sound(copy)
    yield from _shorter(graph)
    for number in range(len(graph)):
        yield from _without(graph, number)


def _shorter(graph: Graph) -> Iterator[Graph]:
    """Return what an earlier node gives."""
    for number, node in enumerate(graph.nodes[:-1]):
        for index in range(len(node.results)):
            copy = graph.clone()
            copy.set_outputs([copy.nodes[number].results[index]])
            yield from _sound(copy)


def _without(graph: Graph, number: int) -> Iterator[Graph]:
    node = graph.nodes[number]
    for position, operand in enumerate(node.operands):
        if operand is not None and len(node.results) == 1 and operand.type == node.result.type:
            copy = graph.clone()
            same = copy.nodes[number]
            same.result.replace_all_uses_with(same.operands[position])  # type: ignore[arg-type]
            yield from _sound(copy)
    if any(v.producer is not None for v in node.inputs):
        copy = graph.clone()
        for index, result in enumerate(copy.nodes[number].results):
            if result.num_uses:
                result.replace_all_uses_with(copy.add_input(f"cut_{number}_{index}_{len(copy.inputs)}", result.type))
        yield from _sound(copy)


def _sound(graph: Graph) -> Iterator[Graph]:
    try:
        verify(clean(graph))
    except Exception:  # a candidate that does not hold together is no candidate
        return
    yield graph
