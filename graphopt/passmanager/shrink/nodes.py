"""Fewer nodes: runs of them are cut off, outputs are dropped, nodes are passed by."""

from __future__ import annotations

from graphopt.passmanager.shrink.case import Case, part, sound, tidied
from graphopt.passmanager.shrink.search import Search


def reduce_nodes(search: Search) -> None:
    """Cut off runs of nodes (half of them, a quarter, … one), drop outputs, and pass nodes by."""
    _outputs(search)
    size = max(1, len(search.best.graph) // 2)
    while True:
        changed = _cut(search, size)
        changed |= _outputs(search)
        if size > 1:
            size //= 2
        elif not changed:
            break
    while _bypass(search):
        pass


def _cut(search: Search, size: int) -> bool:
    """Cut off each run of `size` nodes in turn. What used their results gets inputs instead."""
    changed, start = False, 0
    while start < len(search.best.graph) and len(search.best.graph) > size:
        nodes = search.best.graph.nodes
        chosen = {*nodes[:start], *nodes[start + size :]}
        if chosen and search.accept(part(search.best, chosen)):
            changed = True
        else:
            start += size
    return changed


def _outputs(search: Search) -> bool:
    """Return one output alone, or leave one out."""
    changed = False
    count = len(search.best.graph.outputs)
    if count > 1:
        singles = (tidied(search.best, {index}) for index in reversed(range(count)))
        changed = any(search.accept(candidate) for candidate in singles)
    index = 0
    while not changed and index < len(search.best.graph.outputs) > 1:
        count = len(search.best.graph.outputs)
        if not search.accept(tidied(search.best, set(range(count)) - {index})):
            index += 1
    return changed or len(search.best.graph.outputs) < count


def _bypass(search: Search) -> bool:
    """Put an operand in the place of a result of its own type."""
    for number, node in enumerate(search.best.graph.nodes):
        for position, operand in enumerate(node.operands):
            fits = operand is not None and len(node.results) == 1 and operand.type == node.result.type
            if fits and search.accept(_without(search.best, number, position)):
                return True
    return False


def _without(case: Case, number: int, position: int) -> Case | None:
    graph = case.graph.clone()
    node = graph.nodes[number]
    operand = node.operands[position]
    assert operand is not None
    node.result.replace_all_uses_with(operand)
    return tidied(Case(graph, case.inputs)) if sound(graph) else None
