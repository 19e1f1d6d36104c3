"""Scales of weights for blocks of neighbours along the inputs."""

from __future__ import annotations

import torch

from graphopt.ops.quantization import Format
from graphopt.passes.quantization.weights import weight_scales


def block_scales(matrix: torch.Tensor, format_: Format, block_size: int, search: bool) -> torch.Tensor:
    """Return scales [ceil(K / block_size), N] of a matrix [K, N]; without blocks [N]. The last block may be shorter."""
    if not block_size:
        return weight_scales(matrix, format_, 1, search)
    inputs, outputs = matrix.shape
    padded = torch.nn.functional.pad(matrix.float(), (0, 0, 0, -inputs % block_size))
    blocks = padded.reshape(-1, block_size, outputs).transpose(1, 2).reshape(-1, block_size)
    return weight_scales(blocks, format_, 0, search).reshape(-1, outputs).contiguous()
