"""A matrix by its blocks that are not zero: `height` rows of one column each, by row block, then column.

    crow_indices [M / height + 1], col_indices [blocks], values [blocks, height]

With a height of 1 this is CSR. Wider blocks (1×4, 8×8) are columns side by side: an index for each column of a block,
and no zeros stored that its columns do not have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

HEIGHTS = (1, 2, 4, 8)


class Compressed(NamedTuple):
    """The three tensors; indices are 32-bit integers."""

    crow_indices: torch.Tensor
    col_indices: torch.Tensor
    values: torch.Tensor


def compress(matrix: torch.Tensor, height: int = 1) -> Compressed:
    """The blocks of a matrix [M, K] in which anything is not zero.

    Raises:
        ValueError: M is no multiple of the height.

    >>> compress(torch.tensor([[0.0, 2.0], [0.0, 3.0], [0.0, 0.0], [4.0, 0.0]]), 2).values
    tensor([[2., 3.],
            [0., 4.]])
    """
    rows, inner = matrix.shape
    if rows % height:
        raise ValueError(f"{rows} rows are no multiple of a block's {height}")
    blocks = matrix.reshape(rows // height, height, inner)
    live = (blocks != 0).any(1)
    row, column = live.nonzero(as_tuple=True)
    starts = torch.zeros(rows // height + 1, dtype=torch.int32)
    starts[1:] = torch.bincount(row, minlength=rows // height).cumsum(0)
    return Compressed(starts, column.int(), blocks[row, :, column].contiguous())


def dense(crow_indices: torch.Tensor, col_indices: torch.Tensor, values: torch.Tensor, inner: int) -> torch.Tensor:
    """The matrix [M, inner]; it differentiates by the values."""
    blocks, height = crow_indices.numel() - 1, values.shape[1]
    rows = rows_of(crow_indices)
    grid = values.new_zeros(blocks, inner, height).index_put((rows, col_indices.long()), values)
    return grid.transpose(1, 2).reshape(blocks * height, inner)


def rows_of(crow_indices: torch.Tensor) -> torch.Tensor:
    """The row of each block."""
    counts = crow_indices.diff().long()
    return torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)


def as_rows(crow_indices: torch.Tensor, col_indices: torch.Tensor, values: torch.Tensor) -> Compressed:
    """The same matrix with blocks of one row."""
    height = values.shape[1]
    counts = crow_indices.diff().long()
    blocks = torch.arange(col_indices.numel(), device=values.device)
    row = (rows_of(crow_indices)[:, None] * height + torch.arange(height, device=values.device)).flatten()
    order = torch.argsort(row, stable=True)
    starts = torch.zeros(counts.numel() * height + 1, dtype=torch.int32, device=values.device)
    starts[1:] = counts.repeat_interleave(height).cumsum(0)
    columns = col_indices[blocks.repeat_interleave(height)[order]]
    return Compressed(starts, columns.int(), values.reshape(-1)[order].unsqueeze(1))


def block_counts(matrix: torch.Tensor) -> dict[int, int]:
    """How many blocks of each height a matrix has in which anything is not zero; of heights that divide its rows.

    >>> block_counts(torch.eye(4))
    {1: 4, 2: 4, 4: 4}
    """
    found = {}
    live = matrix != 0
    for height in HEIGHTS:
        if matrix.shape[0] % height:
            break
        if height > 1:
            live = live.reshape(-1, 2, matrix.shape[1]).any(1)
        found[height] = int(torch.count_nonzero(live))
    return found
