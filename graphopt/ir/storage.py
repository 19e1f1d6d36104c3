"""Memory for weights. A fresh allocation is paid for page by page at its first write, which can cost more than the
arithmetic on it; numpy asks the kernel for huge pages, PyTorch doesn't, so large weights are allocated by numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

LARGE = 1 << 22
"""From this many bytes on numpy asks for huge pages."""
ALIGNMENT = 64
"""In bytes: a cache line, and the widest vector register."""


def empty_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return an uninitialised contiguous CPU tensor.

    >>> empty_tensor((2, 3), torch.float32).shape
    torch.Size([2, 3])
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return torch.empty(tuple(shape), dtype=dtype)
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return torch.from_numpy(raw[start : start + size]).view(dtype).reshape(tuple(shape))


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory of a contiguous tensor as a vector of bytes. PyTorch's own `view` refuses the stride that a
    tensor of one element or none may have.

    >>> byte_view(torch.tensor([1, 256], dtype=torch.int16)).tolist()
    [1, 0, 0, 1]
    """
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy with the same strides, detached."""
    source = tensor.detach()
    if source.device.type != "cpu" or source.layout is not torch.strided or not source.is_contiguous():
        return source.clone()
    return empty_tensor(source.shape, source.dtype).copy_(source)
