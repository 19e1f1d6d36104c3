"""Weights of which two in each four along a row are zero, which sparse tensor cores read at half the size."""

from __future__ import annotations

import torch

_SHAPES = {torch.float16: (32, 64), torch.bfloat16: (32, 64), torch.int8: (32, 128)}
"""What rows and columns have to be multiples of, by dtype."""


def is_two_in_four(weight: torch.Tensor) -> bool:
    """Whether a matrix has two zeros in each four numbers of a row, in a dtype and shape that such kernels take.

    >>> is_two_in_four(torch.tensor([1.0, 0, 2, 0], dtype=torch.float16).repeat(32, 16))
    True
    >>> is_two_in_four(torch.ones(32, 64, dtype=torch.float16))
    False
    """
    if weight.dtype not in _SHAPES or weight.dim() != 2:
        return False
    rows, columns = _SHAPES[weight.dtype]
    if weight.shape[0] % rows or weight.shape[1] % columns or not weight.numel():
        return False
    return int((weight.reshape(-1, 4) != 0).sum(1).max()) <= 2
