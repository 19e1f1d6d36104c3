"""A worklist of nodes: a stack with constant-time membership and removal."""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir import Node


class Worklist:
    """Last in, first out; a node is in it at most once."""

    __slots__ = ("_stack", "_index")

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self._stack: list[Node | None] = []
        self._index: dict[Node, int] = {}
        for node in nodes:
            self.push(node)

    def __bool__(self) -> bool:
        return bool(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def push(self, node: Node) -> None:
        """Add a node on top, unless it is there."""
        if node not in self._index:
            self._index[node] = len(self._stack)
            self._stack.append(node)

    def pop(self) -> Node | None:
        """Remove and return the top node; None if there is none."""
        while self._stack:
            node = self._stack.pop()
            if node is not None:
                del self._index[node]
                return node
        return None

    def drain(self) -> list[Node]:
        """Remove all nodes and return them in the order in which they were pushed."""
        if not self._index:
            return []
        nodes = list(self._index)
        self._stack.clear()
        self._index.clear()
        return nodes

    def discard(self, node: Node) -> None:
        """Remove a node, leaving a gap that `pop` skips."""
        position = self._index.pop(node, None)
        if position is not None:
            self._stack[position] = None
