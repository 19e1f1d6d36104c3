"""What names mean inside of graphs that nodes hold (branches and loop bodies), and how such graphs are read.

A nested graph sees the names around it. It is read in one of two ways: in place, into the graph of the node that holds
it, or as a region, which is isolated: what it uses of the graph around becomes an input of the region.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graphopt.errors import CaptureError, GraphOptError
from graphopt.frontends.onnx.application import Declined
from graphopt.frontends.onnx.entries import Entry, Sequence_
from graphopt.ir import Graph, Type, Value
from graphopt.ops.onnx_nested import count_nodes

if TYPE_CHECKING:
    import onnx

    from graphopt.frontends.onnx.reader import Reader

DEEPEST = 48
"""How deep graphs may be nested."""

UNROLLED = 10_000
"""How many nodes the unrolled loops of a file may add up to."""


READ = 50_000
"""How many nodes may be read in nested graphs, beside `AGAIN` times those that the file has: a loop is tried in two
ways, and so is each loop in it."""

AGAIN = 4


class TooLong(Declined):
    """A loop has too many rounds to be unrolled, or nested graphs were tried too often."""


@dataclass
class Budget:
    """What is left of the bounds on unrolled and nested nodes, how many branches were chosen on trial, and how deep the
    current graph is nested.

    file: the whole graph. nested: None as long as nothing nested was read, as counting what the file has takes time.
    """

    file: onnx.GraphProto | None = None
    unrolled: int = UNROLLED
    nested: int | None = None
    choices: int = 0
    depth: int = 0

    def unroll(self, nodes: int) -> None:
        """Note that a body of so many nodes is about to be repeated.

        Raises:
            TooLong: there would be too many.
        """
        if nodes > self.unrolled:
            raise TooLong(f"unrolling the loops of this file would take more than {UNROLLED} nodes")
        self.unrolled -= nodes

    def enter(self, nodes: int) -> None:
        """Note that a nested graph of so many nodes of its own is being read.

        Raises:
            CaptureError: graphs are nested too deep.
            TooLong: too many were read.
        """
        if self.depth >= DEEPEST:
            raise CaptureError(f"graphs are nested more than {DEEPEST} deep")
        if self.nested is None:
            self.nested = READ + (AGAIN * count_nodes(self.file) if self.file is not None else 0)
        self.nested -= nodes
        if self.nested < 0:
            raise TooLong("the nested graphs of this file were read too often")
        self.depth += 1

    def leave(self) -> None:
        """Note that it has been read."""
        self.depth -= 1


def new_scope(names: MutableMapping[str, Entry]) -> ChainMap[str, Entry]:
    """Return a scope within another."""
    maps = names.maps if isinstance(names, ChainMap) else [names]
    return ChainMap({}, *maps)


class InPlace:
    """A nested graph that is read into the graph of its node, perhaps more than once."""

    def __init__(self, reader: Reader, proto: onnx.GraphProto) -> None:
        self._reader = reader
        self._proto = proto
        self._stored: dict[str, Entry] | None = None
        self.size = count_nodes(proto)
        """The number of nodes, those in graphs inside included."""

    def read(self, inputs: Sequence[Entry]) -> list[Entry]:
        """Read it with entries in the place of its inputs; return what its outputs stand for."""
        reader, proto = self._reader, self._proto
        if len(inputs) != len(proto.input):
            raise CaptureError(f"graph {proto.name!r} takes {len(proto.input)} inputs, {len(inputs)} are given")
        outer, location = reader.names, reader.builder.location
        reader.budget.enter(len(proto.node))
        reader.names = new_scope(outer)
        try:
            if self._stored is None:
                reader.read_initializers(proto)
                self._stored = dict(reader.names.maps[0])
            else:
                reader.names.update(self._stored)
            reader.declare(proto)
            for value, entry in zip(proto.input, inputs):
                reader.names[value.name] = entry
            reader.nodes(proto.node)
            return [reader.lookup(value.name) for value in proto.output]
        except GraphOptError as error:
            error.certain = True  # a graph in place is run
            raise
        finally:
            reader.names, reader.builder.location = outer, location
            reader.budget.leave()


@dataclass
class Captures:
    """The outer values that the regions of one node use, in order of first use."""

    values: dict[Value, None] = field(default_factory=dict)


class Region(MutableMapping[str, Entry]):
    """A nested graph that is read as a region. As a mapping: the names around, as the region sees them."""

    def __init__(self, reader: Reader, proto: onnx.GraphProto, name: str, captures: Captures) -> None:
        self.graph = Graph(name)
        self._outer = reader
        self._proto = proto
        self._captures = captures
        self._own: dict[Value, Value] = {}
        self._taken: set[str] = set()

    def read(self, inputs: Sequence[Type | Entry]) -> list[Entry]:
        """Read the graph. inputs: for each, the type of a new input of the region, or what it stands for.

        Return what the outputs stand for; the region has no outputs yet.
        """
        reader = self._outer.inside(self.graph, ChainMap({}, self))
        for value, given in zip(self._proto.input, inputs):
            is_entry = given is None or isinstance(given, Value | Sequence_) or hasattr(given, "elements")
            entry = given if is_entry else self.graph.add_input(self._free_name(value.name), given)  # type: ignore[arg-type]
            reader.names[value.name] = entry  # type: ignore[assignment]
        reader.read_initializers(self._proto)
        reader.declare(self._proto)
        self.graph.share_symbol_names(reader.symbol_names)
        reader.budget.enter(len(self._proto.node))
        try:
            reader.nodes(self._proto.node)
            self.reader = reader
            return [reader.lookup(value.name) for value in self._proto.output]
        finally:
            reader.budget.leave()

    def complete(self, first: int) -> None:
        """Give the region an input for each value that the regions of its node capture, after its `first` own ones."""
        own = self.graph.inputs[:first]
        captured = [self._input(value) for value in self._captures.values]
        self.graph.inputs[:] = [*own, *captured]

    def _input(self, value: Value) -> Value:
        """The input that stands for a captured value. One that only another region uses, or the operator, is new."""
        own = self._own.get(value)
        if own is None or own.is_constant:
            own = self.graph.add_input(self._free_name(value.name), value.type)
        return own

    def bring(self, entry: Entry) -> Entry:
        """What an entry of the graph around is in the region."""
        if isinstance(entry, Sequence_):
            return Sequence_(tuple([self.bring(item) for item in entry.items]), entry.dtype)
        if not isinstance(entry, Value):
            return entry
        if entry not in self._own:
            if entry.constant is not None:
                self._own[entry] = self.graph.add_constant(self._free_name(entry.name), entry.type, entry.constant)
            else:
                self._captures.values[entry] = None
                self._own[entry] = self.graph.add_input(self._free_name(entry.name), entry.type)
        return self._own[entry]

    def _free_name(self, name: str) -> str:
        name = name or "captured"
        found, number = name, 0
        while found in self._taken or found in self.graph.constants:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def __getitem__(self, name: str) -> Entry:
        return self.bring(self._outer.names[name])

    def __setitem__(self, name: str, entry: Entry) -> None:
        raise TypeError("names are defined in the innermost scope")

    def __delitem__(self, name: str) -> None:
        raise TypeError("names are removed from the innermost scope")

    def __iter__(self) -> Iterator[str]:
        return iter(self._outer.names)

    def __len__(self) -> int:
        return len(self._outer.names)

    def __contains__(self, name: object) -> bool:
        return name in self._outer.names
