"""Appending IR nodes while a model is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from graphopt.ir import (
    Attributes,
    Constant,
    Graph,
    Location,
    Node,
    Op,
    ScalarKind,
    ScalarType,
    TensorType,
    Type,
    Value,
    from_torch,
    infer_types,
)
from graphopt.ir.bind import bind
from graphopt.ir.dims import Dim
from graphopt.ir.location import UNKNOWN
from graphopt.ops import registry


class Derived(NamedTuple):
    """An application that was evaluated, since its operands are constants; `results` are what it gave."""

    op: Op
    operands: tuple[Value | None, ...]
    attributes: Attributes
    location: Location
    results: tuple[Value, ...]


class Builder:
    """Appends nodes to a graph; `location` is where the next ones come from, `sizes` holds dims as values, `derived`
    the nodes that were evaluated in place of being appended."""

    def __init__(self, graph: Graph, sizes: dict[Dim, Value] | None = None) -> None:
        self.graph = graph
        self.location: Location = UNKNOWN
        self.sizes: dict[Dim, Value] = {} if sizes is None else sizes
        self.derived: list[Derived] = []

    def at(self, location: Location) -> Builder:
        """Return a builder of the same graph at another location."""
        other = Builder(self.graph, self.sizes)
        other.location, other.derived = location, self.derived
        return other

    def size(self, dim: Dim) -> Value:
        """Return a dim as a value: the one that has it (an input, the result of `item`), or a new one."""
        for value in self.graph.inputs:
            if isinstance(value.type, ScalarType) and value.type.value == dim:
                return value
        if dim not in self.sizes:
            self.sizes[dim] = self.one("graphopt.dim", dim, type=ScalarType(ScalarKind.INT, dim))
        return self.sizes[dim]

    def append(
        self,
        op: Op,
        operands: Sequence[Value | None],
        attributes: Attributes,
        types: Sequence[Type],
        names: Sequence[str] = (),
        regions: tuple[Graph, ...] = (),
    ) -> tuple[Value, ...]:
        """Append a node whose result types are known."""
        node = Node(op, operands, attributes, types, regions=regions, location=self.location, names=names)
        for value in node.results:
            if isinstance(value.type, ScalarType) and value.type.value is not None:
                self.sizes.setdefault(value.type.value, value)
        return self.graph.append(node).results

    def call(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        types: Sequence[Type] | None = None,
        names: Sequence[str] = (),
    ) -> tuple[Value, ...]:
        """Append an application of the operator called `name`; without `types` they are inferred."""
        op = registry.get(name)
        operands, attributes = bind(op, args, kwargs or {})
        if types is None:
            types = infer_types(op, operands, attributes)
        return self.append(op, operands, attributes, types, names)

    def one(self, name: str, *args: Any, type: Type | None = None, **kwargs: Any) -> Value:
        """Append an application with one result."""
        (value,) = self.call(name, args, kwargs, None if type is None else (type,))
        return value

    def cast(self, value: Value, to: TensorType) -> Value:
        """Convert a value's dtype and device to those of `to`, if they differ."""
        own: TensorType = value.type  # type: ignore[assignment]
        changes: dict[str, Any] = {}
        if own.dtype is not to.dtype:
            changes["dtype"] = to.dtype
        if own.device != to.device:
            changes["device"] = to.device
        if not changes:
            return value
        return self.one("aten._to_copy", value, type=TensorType(to.dtype, own.shape, to.device), **changes)

    def expand(self, value: Value, to: TensorType) -> Value:
        """Broadcast a value to the shape of `to`, unless it has it."""
        own: TensorType = value.type  # type: ignore[assignment]
        if own.shape == to.shape:
            return value
        return self.one("aten.expand", value, to.shape, type=own.with_shape(to.shape))

    def scalar(self, number: bool | int | float | complex, dtype: torch.dtype | None = None) -> Value:
        """Return a 0-dim constant that holds `number`."""
        tensor = torch.tensor(number, dtype=dtype)
        type_ = TensorType(from_torch(tensor.dtype), ())
        return self.graph.add_constant("scalar", type_, Constant(tensor))
