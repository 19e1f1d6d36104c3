"""The networkx view of a graph, for graph algorithms. It is a copy of the structure, not the storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphopt.ir.graph import Graph

if TYPE_CHECKING:
    import networkx


def to_networkx(graph: Graph) -> networkx.MultiDiGraph:
    """Return a `networkx.MultiDiGraph`: inputs, constants, nodes and the terminator as vertices, one edge a use.

    Vertices are the `Value` (inputs, constants) and `Node` objects themselves; edges carry `value` and `index`.
    """
    import networkx as nx

    view = nx.MultiDiGraph()
    for value in (*graph.inputs, *graph.constants.values()):
        view.add_node(value)
    for node in (*graph, graph.terminator):
        view.add_node(node)
        for index, operand in enumerate(node.operands):
            if operand is not None:
                view.add_edge(operand.producer or operand, node, value=operand, index=index)
    return view
