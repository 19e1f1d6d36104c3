"""What a name of an ONNX graph stands for while it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphopt.ir import DType, Value
from graphopt.ir.dims import Dim


@dataclass(frozen=True, eq=False)
class Known:
    """A small integer tensor whose elements are dims, as `Shape` gives it.

    What is computed from it (`Gather`, `Concat`, `Add`, …) is known, too, so that a chain that ends in the shape of a
    `Reshape` becomes an attribute, and no node is left of it.

    elements: a NumPy array of integers and dim expressions.
    """

    elements: np.ndarray
    dtype: DType = DType.I64

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the tensor itself."""
        return tuple(self.elements.shape)

    @property
    def flat(self) -> list[Dim]:
        """The elements in row-major order."""
        return list(self.elements.reshape(-1))

    @property
    def is_static(self) -> bool:
        """True if every element is a number."""
        return all(isinstance(element, int) for element in self.flat)


def known(elements: object, shape: tuple[int, ...] | None = None, dtype: DType = DType.I64) -> Known:
    """Return a `Known` of the given elements (a nested list of dims), reshaped to `shape` if one is given.

    >>> known([2, 3]).shape
    (2,)
    """
    flat = _flatten(elements)
    if shape is None:
        shape = (len(flat),) if isinstance(elements, list | tuple) else ()
    return Known(as_array(flat, shape), dtype)


def as_array(items: Sequence[object], shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Elements as a NumPy array of objects, a vector unless a shape is given."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array if shape is None else array.reshape(shape)


def _flatten(elements: object) -> list[object]:
    if isinstance(elements, list | tuple):
        return [item for element in elements for item in _flatten(element)]
    return [elements]


@dataclass(frozen=True, eq=False)
class Sequence_:
    """A sequence whose length is known: its elements, one by one.

    dtype: of the elements, where there may be none.
    """

    items: tuple[Entry, ...]
    dtype: DType | None = None


Entry: TypeAlias = "Value | Known | Sequence_ | None"
"""None is an absent optional."""


def holds_strings(entry: Entry) -> bool:
    """True for a tensor of strings, and for a sequence with one."""
    if isinstance(entry, Value):
        return getattr(entry.type, "dtype", None) is DType.STRING
    return isinstance(entry, Sequence_) and any(map(holds_strings, entry.items))
