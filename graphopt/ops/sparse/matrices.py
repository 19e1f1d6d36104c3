"""Sparse matrices prepared for the kernels, kept as long as the tensor of their values lives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch.utils.weak import WeakIdKeyDictionary

_Prepared = TypeVar("_Prepared")
_KEPT = 8
"""Forms of one matrix: a convolution has one for each size of its images."""


@dataclass
class _Entry:
    """What was made of a matrix. stamp: changes when a tensor is written to."""

    crow_indices: torch.Tensor
    col_indices: torch.Tensor
    stamp: tuple[Hashable, ...]
    made: OrderedDict[Hashable, object] = field(default_factory=OrderedDict)


_entries: WeakIdKeyDictionary = WeakIdKeyDictionary()


def prepared(
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    key: Hashable,
    make: Callable[[], _Prepared],
) -> _Prepared:
    """What `make` gives for these tensors as they are now, made once for each key."""
    stamp = tuple(_stamp(tensor) for tensor in (crow_indices, col_indices, values))
    entry = _entries.get(values)
    if (
        entry is None
        or entry.stamp != stamp
        or entry.crow_indices is not crow_indices
        or entry.col_indices is not col_indices
    ):
        entry = _entries[values] = _Entry(crow_indices, col_indices, stamp)
    found = entry.made.get(key)
    if found is None:
        found = entry.made[key] = make()
        if len(entry.made) > _KEPT:
            entry.made.popitem(last=False)
    return found


def _stamp(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version
