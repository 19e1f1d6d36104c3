"""Listeners see every mutation of a graph: the worklist, statistics and journals are listeners."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, Value


class Listener:
    """Override what you need; each method does nothing by default."""

    def inserted(self, node: Node) -> None:
        """`node` has been added to the graph."""

    def removed(self, node: Node) -> None:
        """`node` is about to leave the graph; its operands are still there."""

    def modified(self, node: Node) -> None:
        """An operand, an attribute or a result type of `node` has changed."""

    def replaced(self, node: Node, values: Sequence[Value]) -> None:
        """The results of `node` are about to be replaced by `values`."""

    def value_replaced(self, old: Value, new: Value) -> None:
        """Every use of `old` is about to become a use of `new`, which claims to be equal to it."""
