"""Control flow: the graphs inside a graph, results that nobody uses, and operands that no region reads."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Graph, Node, Value
from graphopt.ops.effects import is_removable
from graphopt.rewrite import Rewriter

COND = "higher_order.cond"


def graph_and_regions(graph: Graph) -> list[Graph]:
    """Return `graph` and every region nested in it, inner ones first."""
    found: list[Graph] = []
    for node in graph:
        for region in node.regions:
            found += graph_and_regions(region)
    return [*found, graph]


def drop_unused_results(node: Node, rewriter: Rewriter) -> Node:
    """Replace a `cond` by one that returns only the results that are used; return it, or `node` as it was.

    The results of a loop are carried from one round to the next, so a loop is left alone.
    """
    kept = [i for i, r in enumerate(node.results) if r.num_uses]
    if node.op.name != COND or len(kept) == len(node.results):
        return node
    regions = tuple(region.clone() for region in node.regions)
    for region in regions:
        region.set_outputs([region.outputs[i] for i in kept], region.updates)
        _sweep(region)
    return _rebuilt(node, node.operands, regions, kept, rewriter)


def drop_unused_operands(node: Node, rewriter: Rewriter) -> Node:
    """Replace a `cond` by one without the operands that neither branch reads; return it, or `node` as it was."""
    if node.op.name != COND:
        return node
    count = len(node.operands) - 1
    kept = [i for i in range(count) if any(region.inputs[i].num_uses for region in node.regions)]
    if len(kept) == count or any(region.mutations for region in node.regions):
        return node
    regions = tuple(region.clone() for region in node.regions)
    for region in regions:
        region.inputs = [region.inputs[i] for i in kept]
    operands = (node.operands[0], *(node.operands[i + 1] for i in kept))
    return _rebuilt(node, operands, regions, range(len(node.results)), rewriter)


def _sweep(region: Graph) -> None:
    for inner in reversed(region):
        if not any(r.num_uses for r in inner.results) and is_removable(inner):
            region.erase(inner)


def _rebuilt(
    node: Node,
    operands: Sequence[Value | None],
    regions: tuple[Graph, ...],
    kept: Sequence[int],
    rewriter: Rewriter,
) -> Node:
    types = [node.results[i].type for i in kept]
    names = [node.results[i].name for i in kept]
    with rewriter.at(node):
        new = rewriter.insert(
            Node(node.op, operands, node.attributes, types, regions=regions, location=node.location, names=names)
        )
    for index, result in zip(kept, new.results):
        rewriter.replace_value(node.results[index], result)
    rewriter.erase(node)
    return new
