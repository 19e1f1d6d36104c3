"""How operators take part in pruning: one treatment an operator, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from graphopt.ir import Node, Trait, Value
from graphopt.passes.pruning.rewrite.dead import Dead, unknown
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor


class Treatment:
    """What an operator does to slots that go.

    The default fits an operator that keeps slots apart and has no attribute that speaks of sizes.
    """

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """What is known of the results, from what is known of the operands."""
        return [unknown(result) for result in node.results]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """The slots of operands that the node cannot do without."""
        return iter(())

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Make the node again on what is left of its operands."""
        return editor.again(node, **self.attributes(node, editor)).results

    def attributes(self, node: Node, editor: Editor) -> dict[str, Any]:
        """The attributes that change."""
        return {}


class Opaque(Treatment):
    """An operator of which nothing is known."""

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Everything must stay."""
        for value in (*node.operands, *node.results):
            for axis in scope.axes(value):
                assert value is not None
                reason = f"{node.op.name} is not known to do without"
                yield Refusal(value, axis, scope.removed(value, axis), node, reason)


TREATMENTS: dict[str, Treatment] = {}
OPAQUE = Opaque()

T = TypeVar("T", bound=type[Treatment])


def treats(names: str) -> Callable[[T], T]:
    """Register a treatment for operators, by their names without the dialect `aten`, with or without the overload;
    those of `transformers` with the dialect."""

    def register(cls: T) -> T:
        for name in names.split():
            TREATMENTS[name if name.startswith("transformers.") else f"aten.{name}"] = cls()
        return cls

    return register


def treatment(node: Node) -> Treatment:
    """The treatment of a node's operator."""
    found = TREATMENTS.get(node.op.name) or TREATMENTS.get(node.op.base)
    if found is None and Trait.ELEMENTWISE in node.op.traits:
        found = TREATMENTS["aten.elementwise"]
    return found or OPAQUE
