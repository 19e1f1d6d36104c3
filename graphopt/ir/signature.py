"""How a caller's arguments map to graph inputs, and graph outputs to the caller's results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir.dtypes import DType, from_torch


@dataclass(frozen=True, slots=True)
class Slot:
    """A leaf of the pytree that is an input (or output) of the graph, by index."""

    index: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A leaf that is fixed at capture: a number, string or None that the graph was specialised to."""

    value: Any


Leaf = Slot | Literal


@dataclass(frozen=True, slots=True)
class Fixed:
    """An input whose elements the graph was made for, and no others: they decide shapes.

    index: of the graph's input. elements: in row-major order.
    """

    index: int
    dtype: DType
    shape: tuple[int, ...]
    elements: tuple[bool | int | float, ...]

    @staticmethod
    def of(index: int, tensor: torch.Tensor) -> Fixed:
        """Return the elements of a tensor as those that an input must have."""
        elements = tuple(tensor.detach().reshape(-1).tolist())
        return Fixed(index, from_torch(tensor.dtype), tuple(tensor.shape), elements)

    def holds(self, given: Any) -> bool:
        """True if a tensor has these elements."""
        if not isinstance(given, torch.Tensor) or given.dtype is not self.dtype.torch or given.shape != self.shape:
            return False
        return all(a == b or (a != a and b != b) for a, b in zip(given.reshape(-1).tolist(), self.elements))

    def tensor(self) -> torch.Tensor:
        """The elements as a tensor."""
        return torch.tensor(self.elements, dtype=self.dtype.torch).reshape(self.shape)

    def __str__(self) -> str:
        return str(self.tensor().tolist())


@dataclass(frozen=True, slots=True)
class Signature:
    """The calling convention of a captured model.

    in_tree, out_tree: `torch.utils._pytree.TreeSpec` of `(args, kwargs)` and of the result.
    in_leaves, out_leaves: one entry for each leaf. in_names: a name for each leaf, for messages.
    parameters: the names under which the original takes positional arguments, in order. defaults: those of its
        arguments that are numbers, strings or None; so that a call may pass or omit them as it likes.
    out_names: the names of the graph's outputs, where the model has names for them. fixed: inputs that must hold what
        they held at capture.
    """

    in_tree: Any
    out_tree: Any
    in_leaves: tuple[Leaf, ...]
    out_leaves: tuple[Leaf, ...]
    in_names: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    defaults: tuple[tuple[str, Any], ...] = ()
    out_names: tuple[str, ...] = ()
    fixed: tuple[Fixed, ...] = ()
