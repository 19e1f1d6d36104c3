"""Stored tensors that a device has no room for: in pinned host memory, or in a file that is mapped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

from graphopt.backends.devices.driver import Driver


class Shelf(Protocol):
    """Keeps tensors off a device."""

    def take(self, index: int) -> torch.Tensor:
        """The tensor of a number, in host memory."""
        ...


class HostShelf:
    """Tensors in pinned memory."""

    def __init__(self, driver: Driver, tensors: Sequence[torch.Tensor]) -> None:
        self._held = [driver.pinned(tensor) for tensor in tensors]

    def take(self, index: int) -> torch.Tensor:
        """The tensor itself."""
        return self._held[index]


class DiskShelf:
    """Tensors in a safetensors file, read where they are looked at. The file goes when the shelf does.

    >>> shelf = DiskShelf([torch.ones(2, 3), torch.zeros(4)])
    >>> shelf.take(1).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, tensors: Sequence[torch.Tensor], folder: str | os.PathLike[str] | None = None) -> None:
        from safetensors.torch import save_file

        self._folder = tempfile.TemporaryDirectory(prefix="graphopt-weights-", dir=folder)
        self._path = Path(self._folder.name) / "weights.safetensors"
        self._strides = [tensor.stride() for tensor in tensors]
        save_file({str(index): tensor.clone().contiguous() for index, tensor in enumerate(tensors)}, self._path)

    def take(self, index: int) -> torch.Tensor:
        """A tensor with the strides that it was given with."""
        from safetensors import safe_open

        with safe_open(self._path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(str(index))
        strides = self._strides[index]
        if tensor.stride() == strides:
            return tensor
        return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)
