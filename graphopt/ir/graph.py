"""The graph: inputs, constants, nodes in an order that is safe under mutation, and outputs that count as uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphopt.ir.dims import Symbol
from graphopt.ir.fresh import named, placeholders
from graphopt.ir.memory import collection_paused
from graphopt.ir.op import Op, Param, ParamKind
from graphopt.ir.signature import Signature
from graphopt.ir.types import Type, type_symbols
from graphopt.ir.value import Constant, Node, Value

RETURN = Op("ir.return", (Param("values", ParamKind.VARIADIC, "Tensor[]"),))
"""The terminator. Its operands are the graph's outputs, so an output is a use like any other."""


class Graph:
    """An SSA graph.

    inputs: values bound at a call. constants: stored tensors by name.
    mutations: names of inputs or buffers that the last `len(mutations)` returned values are written back to.
    signature: the caller's convention, when the graph was captured from a model.
    metadata: JSON values by the name of who keeps them: what a file says of the model besides what it computes. Passes
        leave it alone.

    Nodes form a linked list. While iterating, the current node may be erased, and nodes inserted after it are visited.
    """

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.constants: dict[str, Value] = {}
        self.mutations: tuple[str, ...] = ()
        self.signature: Signature | None = None
        self.metadata: Mapping[str, Any] = {}
        self.terminator = Node(RETURN, ())
        self.terminator.graph = self
        self._head: Node | None = None
        self._tail: Node | None = None
        self._count = 0
        self._ordered = True
        self._suffixes: dict[str, int] = {}
        self._symbol_names: set[str] | None = None

    # Nodes

    def __iter__(self) -> Iterator[Node]:
        node = self._head
        while node is not None:
            yield node
            node = node._next
            while node is not None and node.graph is not self:
                node = node._next

    def __reversed__(self) -> Iterator[Node]:
        node = self._tail
        while node is not None:
            yield node
            node = node._prev
            while node is not None and node.graph is not self:
                node = node._prev

    def __len__(self) -> int:
        return self._count

    @property
    def nodes(self) -> tuple[Node, ...]:
        """A snapshot of the nodes in order."""
        return tuple(self)

    def append(self, node: Node) -> Node:
        """Add a node at the end."""
        return self._link(node, self._tail, None)

    def insert_before(self, node: Node, anchor: Node) -> Node:
        """Add a node before `anchor` (which may be the terminator)."""
        if anchor is self.terminator:
            return self.append(node)
        return self._link(node, anchor._prev, anchor)

    def insert_after(self, node: Node, anchor: Node) -> Node:
        """Add a node after `anchor`."""
        return self._link(node, anchor, anchor._next)

    def move_before(self, node: Node, anchor: Node) -> None:
        """Move a node of this graph before `anchor`."""
        if node is not anchor:
            self._unlink(node)
            self.insert_before(node, anchor)

    def erase(self, node: Node) -> None:
        """Remove a node without uses. Its own links stay, so an iteration standing on it goes on."""
        for result in node.results:
            if result._uses:
                raise ValueError(f"cannot erase {node!r}: its results are still used")
        node.drop_operands()
        self._unlink(node)

    def _unlink(self, node: Node) -> None:
        before, after = node._prev, node._next
        if before is None:
            self._head = after
        else:
            before._next = after
        if after is None:
            self._tail = before
        else:
            after._prev = before
        node.graph = None
        self._count -= 1

    def _link(self, node: Node, before: Node | None, after: Node | None) -> Node:
        for value in node.results:
            if type_symbols(value.type):
                self._name_results(node)
                break
        node._prev, node._next, node.graph = before, after, self
        if before is None:
            self._head = node
        else:
            before._next = node
        if after is None:
            self._tail = node
            node._order = before._order + 1 if before is not None else 0
        else:
            after._prev = node
            self._ordered = False
        self._count += 1
        return node

    def share_symbol_names(self, names: set[str]) -> None:
        """Draw the names of new symbols from a set shared with other graphs (the regions of one graph)."""
        names.update(s.name for s in self.symbols())
        self._symbol_names = names

    def name_symbols(self, types: Sequence[Type]) -> tuple[Type, ...]:
        """Give the placeholders in some types the first names that this graph does not use; see `fresh`.

        O(nodes) the first time, then O(types).
        """
        if not placeholders(types):
            return tuple(types)
        if self._symbol_names is None:
            self._symbol_names = {s.name for s in self.symbols()}
            for node in self:
                self._symbol_names.update(s.name for r in node.results for s in type_symbols(r.type))
        return named(types, self._symbol_names)

    def _name_results(self, node: Node) -> None:
        types = self.name_symbols([value.type for value in node.results])
        for value, type_ in zip(node.results, types):
            value.type = type_
        if self._symbol_names is not None:
            self._symbol_names.update(s.name for type_ in types for s in type_symbols(type_))

    def is_before(self, a: Node, b: Node) -> bool:
        """True if `a` comes before `b`. Renumbers the nodes (O(nodes)) only after an insertion in the middle."""
        if b is self.terminator or a is self.terminator:
            return a is not self.terminator
        if not self._ordered:
            for order, node in enumerate(self):
                node._order = order
            self._ordered = True
        return a._order < b._order

    # Inputs, constants, outputs

    def add_input(self, name: str, type: Type) -> Value:
        """Declare an input."""
        value = Value(type, name)
        self.inputs.append(value)
        return value

    def add_constant(self, name: str, type: Type, constant: Constant) -> Value:
        """Store a tensor under `name`, made unique by a suffix if it is taken."""
        unique = name
        while unique in self.constants:
            self._suffixes[name] = self._suffixes.get(name, 0) + 1
            unique = f"{name}_{self._suffixes[name]}"
        value = Value(type, unique, constant=constant)
        self.constants[unique] = value
        return value

    @property
    def returned(self) -> tuple[Value, ...]:
        """All returned values: the outputs, then the new values of what is mutated."""
        return tuple(self.terminator.inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values that the caller sees."""
        returned = self.returned
        return returned[: len(returned) - len(self.mutations)]

    @property
    def updates(self) -> dict[str, Value]:
        """The new value of each mutated input or buffer, by name."""
        return dict(zip(self.mutations, self.returned[len(self.outputs) :]))

    def set_outputs(self, outputs: Sequence[Value], updates: dict[str, Value] | None = None) -> None:
        """Set what the graph returns, and what it writes back."""
        updates = updates or {}
        self.mutations = tuple(updates)
        self.terminator.set_operands([*outputs, *updates.values()])

    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols of the input types, in first-seen order."""
        return tuple(dict.fromkeys(s for value in self.inputs for s in type_symbols(value.type)))

    def clone(self, values: dict[Value, Value] | None = None) -> Graph:
        """Copy the graph in O(nodes), recording old value → new value in `values`. Types, attributes and tensors are
        shared."""
        return clone_graph(self, values)

    def __str__(self) -> str:
        from graphopt.ir.printer import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"<graph {self.name}: {len(self.inputs)} inputs, {len(self)} nodes, {len(self.outputs)} outputs>"


def clone_graph(graph: Graph, values: dict[Value, Value] | None = None) -> Graph:
    """Copy `graph`, recording old value → new value in `values`, for its regions, too."""
    mapping: dict[Value, Value] = {} if values is None else values
    copy = Graph(graph.name)
    copy.signature = graph.signature
    copy.metadata = graph.metadata
    copy.mutations = graph.mutations
    for value in graph.inputs:
        mapping[value] = copy.add_input(value.name, value.type)
    for name, value in graph.constants.items():
        new = Value(value.type, name, constant=value.constant)
        copy.constants[name] = mapping[value] = new
    with collection_paused():
        _copy_nodes(graph, copy, mapping)
    copy._suffixes = dict(graph._suffixes)
    copy._symbol_names = None if graph._symbol_names is None else set(graph._symbol_names)
    copy.terminator.set_operands([None if v is None else mapping[v] for v in graph.terminator._operands])
    return copy


def _copy_nodes(graph: Graph, copy: Graph, mapping: dict[Value, Value]) -> None:
    tail: Node | None = None
    order = 0
    for node in graph:
        regions = tuple([clone_graph(region, mapping) for region in node.regions]) if node.regions else ()
        new_node = node.copy(mapping, regions)
        new_node.graph, new_node._prev, new_node._order = copy, tail, order
        if tail is None:
            copy._head = new_node
        else:
            tail._next = new_node
        tail = new_node
        order += 1
    copy._tail, copy._count = tail, order


def walk(graph: Graph) -> Iterator[Node]:
    """Visit every node of `graph` and, after each node, the nodes of its regions."""
    for node in graph:
        yield node
        for region in node.regions:
            yield from walk(region)
