"""Graphs among the attributes of ONNX nodes: which outer values they use, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

Rename = Callable[[str], str]

STANDARD = "ai.onnx"
"""The long name of the standard domain."""


def short_domain(domain: str) -> str:
    """A domain as files name it as a rule: "" for the standard one."""
    return "" if domain == STANDARD else domain


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def count_nodes(graph: onnx.GraphProto) -> int:
    """The number of nodes of a graph, those of the graphs in it included."""
    return len(graph.node) + sum(count_nodes(inner) for node in graph.node for inner in graphs_of(node))


def captured_names(node: onnx.NodeProto) -> list[str]:
    """The names that the graphs of a node use and do not define, in order of appearance."""
    found: dict[str, None] = {}
    for graph in graphs_of(node):
        _collect_free(graph, frozenset(), found)
    return list(found)


def _collect_free(graph: onnx.GraphProto, around: frozenset[str], found: dict[str, None]) -> None:
    defined = set(around)
    defined.update(value.name for value in (*graph.input, *graph.initializer))
    defined.update(tensor.values.name for tensor in graph.sparse_initializer)
    for node in graph.node:
        found.update(dict.fromkeys(name for name in node.input if name and name not in defined))
        for inner in graphs_of(node):
            _collect_free(inner, frozenset(defined), found)
        defined.update(node.output)
    found.update(dict.fromkeys(value.name for value in graph.output if value.name not in defined))


def defined_names(node: onnx.NodeProto) -> Iterator[str]:
    """The names that the graphs of a node define, in order; one name may come more than once."""
    for graph in graphs_of(node):
        yield from (value.name for value in graph.input)
        yield from (tensor.name for tensor in graph.initializer)
        yield from (tensor.values.name for tensor in graph.sparse_initializer)
        for inner in graph.node:
            yield from (name for name in inner.output if name)
            yield from defined_names(inner)


def rename(node: onnx.NodeProto, outer: Mapping[str, str], fresh: Rename) -> None:
    """Rename what the graphs of a node refer to, in place.

    outer: new names of the captured values. fresh: gives the new name of what a graph defines.
    """
    for graph in graphs_of(node):
        _rename_graph(graph, dict(outer), fresh)


def _rename_graph(graph: onnx.GraphProto, names: dict[str, str], fresh: Rename) -> None:
    own: dict[str, str] = {}  # an initializer may be the default of the input that has its name
    for item in (*graph.input, *graph.initializer, *[sparse.values for sparse in graph.sparse_initializer]):
        if item.name not in own:
            own[item.name] = fresh(item.name)
        item.name = own[item.name]
    names.update(own)
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
        for inner in graphs_of(node):
            _rename_graph(inner, dict(names), fresh)
        for index, name in enumerate(node.output):
            if name:
                node.output[index] = names[name] = fresh(name)
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def unique(taken: set[str]) -> Rename:
    """Return a function that gives each name it is called with one that is not taken, and takes it."""

    def fresh(name: str) -> str:
        found, number = name, 0
        while found in taken:
            number += 1
            found = f"{name}_{number}"
        taken.add(found)
        return found

    return fresh


def domains_of(node: onnx.NodeProto) -> Iterator[str]:
    """The domains of the nodes in the graphs of a node, "" for the standard one."""
    for graph in graphs_of(node):
        for inner in graph.node:
            yield short_domain(inner.domain)
            yield from domains_of(inner)
