"""Sparse tensors of ONNX files as dense ones: PyTorch's dense operators are what the IR has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.tensors import Folder, to_torch

if TYPE_CHECKING:
    import onnx

MOST = 1 << 28
"""How many elements a tensor may have that its file does not hold."""


def dense(proto: onnx.SparseTensorProto, folder: Folder | None) -> torch.Tensor:
    """Return the tensor that has `values` at `indices` (flat ones [NNZ], or [NNZ, rank]) and zeros elsewhere.

    Raises:
        CaptureError: indices that do not fit, or a shape of more than 2²⁸ elements.
    """
    what = f"sparse tensor {proto.values.name!r}"
    values, indices, shape = to_torch(proto.values, folder), to_torch(proto.indices, folder), tuple(proto.dims)
    count = math.prod(shape)
    if any(size < 0 for size in shape) or count > MOST:
        raise CaptureError(f"{what} has shape {list(shape)}, which is not supported")
    if indices.shape not in ((len(values),), (len(values), len(shape))) or indices.dtype is not torch.int64:
        raise CaptureError(f"{what} has {len(values)} values, but indices of shape {list(indices.shape)}")
    if indices.dim() == 2:
        within = bool(((indices >= 0) & (indices < torch.tensor(shape, dtype=torch.int64))).all())
        steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        indices = (indices * torch.tensor(steps, dtype=torch.int64)).sum(1)
    else:
        within = bool(((indices >= 0) & (indices < count)).all())
    if not within:
        raise CaptureError(f"{what} has indices outside of its shape {list(shape)}")
    flat = torch.zeros(count, dtype=values.dtype)
    flat[indices] = values
    return flat.reshape(shape)
