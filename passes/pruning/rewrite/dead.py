"""What the masked model holds in the slots that go: numbers that no input changes.

A value of shape [N, C, H, W] whose channels 3 and 7 are dead is described by two small arrays of shape [1, C, 1, 1]:
the number at each channel, and whether it is known, which it is where it is the same for all images, rows and
columns. An axis is of size 1 where nothing depends on it, so symbolic sizes never appear, and an operator is evaluated
on the small arrays as it would be on the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from graphopt.ir import DType, TensorType, Value

PLACEHOLDER = 1
"""Stands where nothing is known: one lies in the domain of every elementwise operator."""


@dataclass(frozen=True)
class Dead:
    """Numbers of a value that are known.

    values: as the value, floats in double precision; axes along which nothing differs have size 1.
    known: bools of the same shape.
    """

    values: torch.Tensor
    known: torch.Tensor

    @property
    def rank(self) -> int:
        """The rank of the value."""
        return self.values.dim()

    @property
    def anything(self) -> bool:
        """True if any number is known."""
        return bool(self.known.any())

    @property
    def zero(self) -> torch.Tensor:
        """Where the number is known to be 0."""
        return self.known & (self.values == 0)

    def through(self, f: Callable[[torch.Tensor], torch.Tensor]) -> Dead:
        """Rearrange both arrays."""
        return Dead(f(self.values), f(self.known))

    def expanded(self, axis: int, size: int) -> Dead:
        """With all slots of an axis written out."""
        if self.values.shape[axis] == size:
            return self
        shape = [-1] * self.rank
        shape[axis] = size
        return self.through(lambda t: t.expand(shape))

    def collapsed(self, axes: Iterable[int]) -> Dead:
        """What holds along whole axes: one slot in place of many, known if they all agree."""
        result = self
        for axis in axes:
            if result.values.shape[axis] != 1:
                first = result.values.narrow(axis, 0, 1)
                agree = (result.known & (result.values == first)).all(axis, keepdim=True)
                result = Dead(first, agree)
        return result

    def compact(self) -> Dead:
        """The same with axes of size 1 where nothing differs."""
        values = self.values.masked_fill(~self.known, PLACEHOLDER)
        result = Dead(values, self.known)
        for axis in range(self.rank):
            if result.values.shape[axis] > 1:
                values, known = result.values.narrow(axis, 0, 1), result.known.narrow(axis, 0, 1)
                if bool(((result.values == values) & (result.known == known)).all()):
                    result = Dead(values, known)
        return result


def unknown(value: Value) -> Dead:
    """Nothing is known of a value."""
    rank = value.type.rank if isinstance(value.type, TensorType) else 0
    return Dead(_full(value, PLACEHOLDER, rank), torch.zeros([1] * rank, dtype=torch.bool))


def filled(value: Value, number: float | bool) -> Dead:
    """A value that is the same number throughout."""
    rank = value.type.rank if isinstance(value.type, TensorType) else 0
    return Dead(_full(value, number, rank), torch.ones([1] * rank, dtype=torch.bool))


def where_known(value: Value, values: torch.Tensor, known: torch.Tensor) -> Dead:
    """Values that broadcast with `known`, in the compact form; `value` says the rank."""
    values, known = torch.broadcast_tensors(values, known)
    rank = value.type.rank if isinstance(value.type, TensorType) else 0
    shape = [1] * (rank - known.dim()) + list(known.shape)
    return Dead(values.reshape(shape), known.reshape(shape)).compact()


def aligned(operands: Sequence[Dead]) -> list[Dead]:
    """Operands of one rank, leading axes of size 1 added."""
    rank = max(d.rank for d in operands)
    return [d.through(lambda t, d=d: t.reshape([1] * (rank - d.rank) + list(t.shape))) for d in operands]  # type: ignore[misc]


def harmonized(operands: Sequence[Dead]) -> list[Dead]:
    """Operands of one rank whose axes broadcast: where periods differ, what holds along the whole axis."""
    operands = aligned(operands)
    for axis in range(operands[0].rank):
        if len({d.values.shape[axis] for d in operands} - {1}) > 1:
            operands = [d.collapsed([axis]) for d in operands]
    return operands


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Floats in double precision, on the host."""
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _full(value: Value, number: float | bool, rank: int) -> torch.Tensor:
    numbers = isinstance(value.type, TensorType) and value.type.dtype is not DType.STRING
    dtype = value.type.dtype.storage if numbers else torch.float64  # type: ignore[union-attr]
    return torch.full([1] * rank, number, dtype=torch.float64 if dtype.is_floating_point else dtype)
