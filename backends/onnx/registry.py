"""The table of lowerings: one function for each operator (or family of operators) of the IR."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.errors import EmissionError
from graphopt.ir import Node, TensorType, Type


class Call:
    """One application of an operator, as a lowering sees it.

    Every parameter of the schema is an attribute of its own name: operands are `Tensor`s (None where absent, tuples
    where variadic), the rest are IR attributes. node: the IR node.
    """

    def __init__(self, node: Node, arguments: dict[str, Any]) -> None:
        self.__dict__.update(arguments)
        self.node = node

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.node.op.name} has no parameter {name!r}")

    @property
    def types(self) -> tuple[Type, ...]:
        """The types of the results."""
        return tuple(result.type for result in self.node.results)

    @property
    def out(self) -> TensorType:
        """The type of the first result."""
        type_ = self.node.results[0].type
        assert isinstance(type_, TensorType)
        return type_


Lowered: TypeAlias = "Tensor | Sequence[Tensor]"
Lowering: TypeAlias = Callable[[Emitter, Call], Lowered]

LOWERINGS: dict[str, Lowering] = {}

COMPLEX: set[str] = set()
"""Operators whose lowering takes or gives complex tensors, which stand as pairs."""


class Declined(Exception):
    """Raised by a lowering that does not cover the given arguments; the long tail is tried next."""


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for IR operators."""

    def register(function: Lowering) -> Lowering:
        for name in names:
            if name in LOWERINGS:
                raise EmissionError(f"operator {name!r} has a lowering to ONNX already; remove one of the two")
            LOWERINGS[name] = function
        return function

    return register


def lowers_each(table: dict[str, Any], make: Callable[[Any], Lowering]) -> None:
    """Register `make(entry)` for each operator of a table."""
    for name, entry in table.items():
        lowers(name)(make(entry))


def lowered_ops() -> Iterable[str]:
    """The names of the operators that have a lowering, sorted."""
    from graphopt.backends.onnx import lowerings  # noqa: F401  (fills the table)

    return sorted(LOWERINGS)
