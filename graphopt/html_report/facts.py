"""A graph as tables for drawing: one column for each fact, an entry for each node.

    op, scope, file, rules, device   indices into `tables`: operator names, module paths, source files, chains of the
                                     rules that made a node, devices
    types                            a list of indices, one for each result
    operands                         a list for each node: i ≥ 0 is the result of node i, −1 − k is `values[k]`, an
                                     input or a stored tensor
    parent                           of a node inside a control-flow region, the index of the node that owns it; else −1

Costs are at the sizes in `sizes`: multiply-adds, FLOPs, bytes read and written. Nothing is said of weights but names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from graphopt.analysis import CostModel
from graphopt.ir import Constant, Graph, Node, TensorType, Value, clone_graph
from graphopt.ir.printer import attribute_text, printed_attributes

Facts = dict[str, Any]


class _Table:
    """Distinct strings, numbered as they come."""

    def __init__(self) -> None:
        self.index: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.index.setdefault(text, len(self.index))


def skeleton(graph: Graph) -> Graph:
    """Copy a graph in O(nodes) without its numbers: stored tensors become tensors on the meta device.

    A report holds one, and so keeps no weights alive.
    """
    copy = clone_graph(graph)
    for node_graph in (copy, *(region for node, _ in node_owners(copy) for region in node.regions)):
        for value in node_graph.constants.values():
            assert value.constant is not None
            value.constant = _without_numbers(value.constant)
    return copy


def _without_numbers(constant: Constant) -> Constant:
    shape, dtype = constant.tensor.shape, constant.tensor.dtype
    empty = torch.empty(shape, dtype=dtype, device="meta")
    return Constant(empty, constant.kind, constant.names, constant.requires_grad, constant.persistent)


def graph_facts(graph: Graph, sizes: Mapping[str, int] | None = None) -> Facts:
    """Return the tables of a graph (see the module) as JSON values, in O(nodes).

    sizes: of the symbols, for the costs.

    >>> from graphopt.ops import parse
    >>> facts = graph_facts(parse('''input %x: f32[2]
    ... %y = aten.relu(%x) @ "net.py":3 "encoder.act"
    ... return %y'''))
    >>> facts["tables"]["op"], facts["name"], facts["operands"], facts["values"][0]["name"]
    (['aten.relu'], ['y'], [[-1]], 'x')
    """
    return _Collector(sizes).collect(graph)


class _Collector:
    def __init__(self, sizes: Mapping[str, int] | None) -> None:
        self.costs = CostModel(sizes)
        self.tables = {name: _Table() for name in ("op", "scope", "file", "type", "device", "rules")}
        self.columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        self.numbers: dict[Value, int] = {}
        self.values: list[dict[str, str]] = []

    def collect(self, graph: Graph) -> Facts:
        for value in graph.inputs:
            self._outer(value)
        for number, (node, parent) in enumerate(node_owners(graph)):
            self._add(node, number, parent)
        return {
            "graph": graph.name,
            "outputs": [self._number(v) for v in graph.returned],
            "output_names": [v.name for v in graph.returned],
            "inputs": len(graph.inputs),
            "sizes": dict(self.costs.sizes.bindings),
            "tables": {name: list(table.index) for name, table in self.tables.items()},
            "values": self.values,
            **self.columns,
        }

    def _add(self, node: Node, number: int, parent: int) -> None:
        for result in node.results:
            self.numbers[result] = number
        location, cost = node.location, self.costs.node(node)
        row = (
            self._intern("op", node.op.name),
            ", ".join([result.name or f"{number}" for result in node.results]),
            self._intern("scope", location.scope),
            self._intern("file", location.file),
            location.line,
            self._intern("rules", "\n".join(location.rules)),
            self._intern("device", _device(node)),
            [self._intern("type", repr(result.type)) for result in node.results],
            ", ".join([f"{k}={attribute_text(v)}" for k, v in printed_attributes(node).items()]),
            [self._number(v) for v in node._operands if v is not None],
            parent,
            cost.macs,
            cost.flops,
            cost.read,
            cost.written,
        )
        for column, entry in zip(self.columns.values(), row):
            column.append(entry)

    def _intern(self, table: str, text: str) -> int:
        return self.tables[table].number(text)

    def _number(self, value: Value) -> int:
        found = self.numbers.get(value)
        return self._outer(value) if found is None else found

    def _outer(self, value: Value) -> int:
        """Enter a value that no node makes: an input or a stored tensor."""
        kind = "input" if value.constant is None else value.constant.kind.value
        self.numbers[value] = number = -1 - len(self.values)
        self.values.append({"name": value.name or f"arg{len(self.values)}", "kind": kind, "type": repr(value.type)})
        return number


_COLUMNS = (
    *("op", "name", "scope", "file", "line", "rules", "device", "types", "attributes", "operands", "parent"),
    *("macs", "flops", "read", "written"),
)


def node_owners(graph: Graph, parent: int = -1, start: int = 0) -> Iterator[tuple[Node, int]]:
    """Each node, and after it those of its regions, with the index of the node that owns the region."""
    number = start
    for node in graph:
        yield node, parent
        own = number
        number += 1
        for region in node.regions:
            for inner in node_owners(region, own, number):
                yield inner
                number += 1


def _device(node: Node) -> str:
    return next((r.type.device for r in node.results if isinstance(r.type, TensorType)), "")
