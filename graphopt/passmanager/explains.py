"""Passes that can say why they left a node alone, where their rules do not say it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from graphopt.ir import Graph, Node


@runtime_checkable
class Explains(Protocol):
    """What `graphopt explain` asks of a pass that is not made of rules; a pass may have it or not."""

    def explain(self, graph: Graph, node: Node) -> str | None:
        """Return why the pass leaves `node` of `graph` alone ("its channels are returned"); None if the pass would
        change it, or has no business with such nodes."""
        ...
