"""Building the smaller graph beside the old one: every value that loses slots gets a successor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.errors import GraphOptError
from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dims import Dim, shapes_known_equal
from graphopt.passes.pruning.rewrite.scope import Scope, size
from graphopt.rewrite import Rewriter


class Editor:
    """Makes nodes again on what is left of their operands.

    successors: old value → new value. Stored tensors are sliced once, at their first use.
    """

    def __init__(self, scope: Scope, rewriter: Rewriter) -> None:
        self.scope = scope
        self.rewriter = rewriter
        self.successors: dict[Value, Value] = {}

    # What is left

    def shape(self, value: Value | None) -> tuple[Dim, ...]:
        """The shape that an old value has left."""
        assert value is not None
        return self.scope.removal.shape(value)

    def length(self, value: Value, axis: int) -> int:
        """The number of slots that an axis has left."""
        kept = self.scope.kept(value, axis)
        return size(value, axis) if kept is None else len(kept)

    def size(self, value: Value, given: Sequence[Dim]) -> tuple[Dim, ...]:
        """A size attribute with what is left in the place of sizes that change."""
        changes = zip(given, value.shape, self.shape(value), strict=True)
        return tuple(new if new is not old and new != old else own for own, old, new in changes)

    def value(self, old: Value | None) -> Value:
        """The successor of a value; itself if it loses nothing."""
        assert old is not None
        found = self.successors.get(old)
        if found is None:
            found = self._sliced(old) if old.constant is not None and old in self.scope.removal.shapes else old
            self.successors[old] = found
        return found

    def values(self, olds: Sequence[Value | None]) -> list[Value | None]:
        """The successors of values."""
        return [None if old is None else self.value(old) for old in olds]

    def _sliced(self, old: Value) -> Value:
        kept = {axis: self.scope.kept(old, axis) for axis in self.scope.axes(old)}
        return self.rewriter.constant_like(old, self.scope.left_of(old), kept, succeeds=True)  # type: ignore[arg-type]

    # New nodes

    def again(self, node: Node, operands: Sequence[Value | None] | None = None, **changes: Any) -> Node:
        """The node with other operands (by default the successors of its own) and attributes."""
        return self.rewriter.rebuild(node, self.values(node.operands) if operands is None else operands, **changes)

    def create(self, op: str, *args: Any, **kwargs: Any) -> Value:
        """A new node's only result."""
        return self.rewriter.create(op, *args, **kwargs).result

    def create_all(self, op: str, *args: Any, **kwargs: Any) -> Sequence[Value]:
        """A new node's results."""
        return self.rewriter.create(op, *args, **kwargs).results

    def number(self, tensor: torch.Tensor, like: Value, name: str) -> Value:
        """A stored tensor in the dtype of `like`."""
        assert isinstance(like.type, TensorType)
        tensor = tensor.to(like.type.dtype.torch)
        return self.rewriter.constant(tensor, name, device=like.type.device)

    def plus(self, value: Value, tensor: torch.Tensor) -> Value:
        """value + tensor."""
        return self.create("aten.add.Tensor", value, self.number(tensor, value, "folded"))

    def shifted(self, bias: Value | None, shift: torch.Tensor, weight: Value) -> Value:
        """A bias plus what is folded into it. The stored bias stays a slice of the old one, so that checkpoints can be
        sliced; constant folding merges the two where nothing is trained."""
        return self.number(shift, weight, "folded") if bias is None else self.plus(bias, shift)

    def taken(self, value: Value, axis: int, positions: np.ndarray) -> Value:
        """The slots at some positions: a slice where they are evenly spaced, else a look-up."""
        length = value.shape[axis]
        if len(positions) == length and np.array_equal(positions, np.arange(length)):
            return value
        steps = np.unique(np.diff(positions))
        step = int(steps[0]) if len(steps) else 1
        if len(steps) <= 1 and step > 0:
            start, stop = (int(positions[0]), int(positions[-1]) + 1) if len(positions) else (0, 0)
            return self.create("aten.slice.Tensor", value, axis, start, stop, step)
        assert isinstance(value.type, TensorType)
        index = self.rewriter.constant(torch.from_numpy(positions), "positions", device=value.type.device)
        return self.create("aten.index_select", value, axis, index)

    def filled(self, value: Value, axes: Sequence[int], sizes: Sequence[int], number: float) -> Value:
        """A value with axes filled up at their ends."""
        rank = len(value.shape)
        pad = [0] * (2 * (rank - min(axes)))
        for axis, full in zip(axes, sizes):
            length = value.shape[axis]
            assert isinstance(length, int)
            pad[2 * (rank - 1 - axis) + 1] = full - length
        return self.create("aten.constant_pad_nd", value, pad, number)

    def cut(self, value: Value, axes: Sequence[int], like: Value) -> Value:
        """A value with axes cut at their ends to the sizes of another."""
        for axis in axes:
            value = self.create("aten.slice.Tensor", value, axis, 0, like.shape[axis], 1)
        return value

    # The successors of results

    def succeed(self, node: Node, results: Sequence[Value]) -> None:
        """Record the successors of a node's results, which must have the shapes that are left.

        Raises:
            GraphOptError: they have others.
        """
        for old, new in zip(node.results, results, strict=True):
            if isinstance(old.type, TensorType) and not shapes_known_equal(new.shape, self.shape(old)):
                left = ", ".join(map(str, self.shape(old)))
                raise GraphOptError(
                    f"pruning {node.op.name} gave shape {new.type!r} where [{left}] is left (from {node.location})"
                )
            self.successors[old] = new
            if new.producer is not None and not new.name:
                new.name = old.name
