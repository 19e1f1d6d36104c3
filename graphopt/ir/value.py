"""Values and nodes of the SSA graph, and the use lists that tie them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from graphopt.ir.attributes import EMPTY, Attributes
from graphopt.ir.location import UNKNOWN, Location
from graphopt.ir.op import Op
from graphopt.ir.types import Type

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


class ConstantKind(Enum):
    """What a stored tensor is to the model."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    CONSTANT = "constant"

    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class Constant:
    """A tensor held by reference, never copied by a clone.

    names: all its qualified names in the model (several for tied weights).
    version: the tensor's version counter at capture; a later change is detected by comparing it.
    kept: of a tensor that is a slice of the model's own, the indices that it keeps of it, by dim.
    """

    tensor: torch.Tensor
    kind: ConstantKind = ConstantKind.CONSTANT
    names: tuple[str, ...] = ()
    requires_grad: bool = False
    persistent: bool = True
    version: int = -1
    kept: Mapping[int, np.ndarray[Any, Any]] = field(default_factory=dict, repr=False, compare=False)
    digest: tuple[int, str] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def changed(self) -> bool:
        """True if the tensor was modified in place since capture."""
        return self.version >= 0 and not self.tensor.is_inference() and self.tensor._version != self.version


class Use(NamedTuple):
    """One use of a value: `node.operands[index]`."""

    node: Node
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody misses


_new = object.__new__
_new_use = tuple.__new__  # what `Use(...)` does, without a frame of Python


class Value:
    """A typed SSA value: the result of a node, a graph input (no producer), or a constant.

    `name` is a hint for printing; only inputs and constants are identified by it.
    """

    __slots__ = ("type", "name", "producer", "index", "constant", "_uses")

    def __init__(
        self,
        type: Type,
        name: str = "",
        *,
        producer: Node | None = None,
        index: int = 0,
        constant: Constant | None = None,
    ) -> None:
        self.type = type
        self.name = name
        self.producer = producer
        self.index = index
        self.constant = constant
        self._uses: dict[Use, None] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """All uses in insertion order (a snapshot, safe while rewriting)."""
        return tuple(self._uses)

    @property
    def num_uses(self) -> int:
        """The number of uses, outputs of the graph included."""
        return len(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use this value, each once, in insertion order."""
        return tuple(dict.fromkeys(use.node for use in self._uses))

    @property
    def is_constant(self) -> bool:
        """True for a stored tensor."""
        return self.constant is not None

    @property
    def is_input(self) -> bool:
        """True for an input of a graph."""
        return self.producer is None and self.constant is None

    @property
    def shape(self) -> tuple[Any, ...]:
        """The dims of a tensor value."""
        return self.type.shape  # type: ignore[union-attr]

    @property
    def dtype(self) -> Any:
        """The element type of a tensor value."""
        return self.type.dtype  # type: ignore[union-attr]

    def replace_all_uses_with(self, other: Value) -> None:
        """Make every use of this value a use of `other`. Costs O(uses)."""
        if other is self:
            return
        for use in self.uses:
            use.node.set_operand(use.index, other)

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type!r}"


class Node:
    """One application of an operator. Mutate through `graphopt.rewrite.Rewriter` only, so that listeners see it."""

    __slots__ = ("op", "_operands", "attributes", "results", "regions", "location", "graph", "_prev", "_next", "_order")

    def __init__(
        self,
        op: Op,
        operands: Sequence[Value | None],
        attributes: Attributes = EMPTY,
        result_types: Sequence[Type] = (),
        *,
        regions: tuple[Graph, ...] = (),
        location: Location = UNKNOWN,
        names: Sequence[str] = (),
    ) -> None:
        self.op = op
        self._operands: list[Value | None] = list(operands)
        self.attributes = attributes
        self.regions = regions
        self.location = location
        self.graph: Graph | None = None
        self._prev: Node | None = None
        self._next: Node | None = None
        self._order = 0
        results = []
        for index, type_ in enumerate(result_types):
            results.append(Value(type_, names[index] if index < len(names) else "", producer=self, index=index))
        self.results = tuple(results)
        for index, operand in enumerate(self._operands):
            if operand is not None:
                operand._uses[_new_use(Use, (self, index))] = None

    def copy(self, values: dict[Value, Value], regions: tuple[Graph, ...] = ()) -> Node:
        """Copy this node for another graph, with the operands that `values` gives, and record its results there.

        The copy shares types, attributes and location. Written out, since rollback clones whole graphs.
        """
        node = _new(Node)
        node.op, node.attributes, node.location, node.regions = self.op, self.attributes, self.location, regions
        node.graph = node._prev = node._next = None
        node._order = 0
        operands: list[Value | None] = []
        node._operands = operands
        for old in self._operands:
            if old is None:
                operands.append(None)
            else:
                operand = values[old]
                operand._uses[_new_use(Use, (node, len(operands)))] = None
                operands.append(operand)
        results = []
        for old in self.results:
            values[old] = result = _new(Value)
            result.type, result.name, result.index, result.constant = old.type, old.name, old.index, None
            result.producer = node
            result._uses = {}
            results.append(result)
        node.results = tuple(results)
        return node

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """The operands in schema order; an absent optional operand is None."""
        return tuple(self._operands)

    @property
    def inputs(self) -> Iterator[Value]:
        """The operands that are present."""
        return (v for v in self._operands if v is not None)

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.op.name

    def operand(self, name: str) -> Any:
        """The operand, tuple of operands, or None under a parameter's name."""
        return self.arguments()[name]

    def attr(self, name: str) -> Any:
        """An attribute, or its default in the schema."""
        if name in self.attributes:
            return self.attributes[name]
        for param in self.op.attribute_params:
            if param.name == name:
                return param.default
        raise KeyError(f"{self.op.name} has no attribute {name!r}")

    def arguments(self) -> dict[str, Any]:
        """Every parameter by name: values, tuples of values, or attributes."""
        return self.op.bind_names(self._operands, self.attributes)

    def set_operand(self, index: int, value: Value | None) -> None:
        """Replace one operand. The only place besides construction that edits use lists."""
        old = self._operands[index]
        if old is value:
            return
        use = _new_use(Use, (self, index))
        if old is not None:
            del old._uses[use]
        self._operands[index] = value
        if value is not None:
            value._uses[use] = None

    def set_operands(self, values: Sequence[Value | None]) -> None:
        """Replace all operands; their number may change."""
        self.drop_operands()
        self._operands = list(values)
        for index, value in enumerate(self._operands):
            if value is not None:
                value._uses[_new_use(Use, (self, index))] = None

    def drop_operands(self) -> None:
        """Give up all operands, as before erasing."""
        for index, value in enumerate(self._operands):
            if value is not None:
                del value._uses[_new_use(Use, (self, index))]
        self._operands = []

    @property
    def is_erased(self) -> bool:
        """True once the node has left its graph."""
        return self.graph is None

    def __repr__(self) -> str:
        results = ", ".join(f"%{r.name or '?'}" for r in self.results)
        operands = ", ".join("none" if v is None else f"%{v.name or '?'}" for v in self._operands)
        prefix = f"{results} = " if results else ""
        return f"{prefix}{self.op.name}({operands})"
