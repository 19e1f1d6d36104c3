"""Block compressed rows, as PyTorch's BSR has them, with blocks of some rows and one column.

    crow_indices [M / height + 1]    where the blocks of each row of blocks start, and the end
    col_indices [blocks]             the column of each
    values [blocks, height]          what is in it

A height of 1 is compressed sparse rows. Blocks of more columns are stored column by column: an index costs as much as
one number, and the kernel reads them the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class RowBlocks(NamedTuple):
    """A sparse matrix."""

    crow_indices: torch.Tensor
    col_indices: torch.Tensor
    values: torch.Tensor

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return (self.crow_indices.numel() - 1) * self.values.shape[1]


def to_row_blocks(weight: torch.Tensor, height: int = 1) -> RowBlocks:
    """Store a matrix [M, K]; height divides M.

    >>> to_row_blocks(torch.tensor([[0.0, 2.0], [3.0, 0.0]])).values.tolist()
    [[2.0], [3.0]]
    """
    rows, columns = weight.shape
    blocks = weight.reshape(rows // height, height, columns).transpose(1, 2)
    live = (blocks != 0).any(2)
    counts = live.sum(1)
    crow = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return RowBlocks(crow, live.nonzero()[:, 1].to(torch.int32), blocks[live].contiguous())


def to_dense(matrix: RowBlocks, columns: int) -> torch.Tensor:
    """The matrix [M, columns] itself.

    >>> to_dense(to_row_blocks(torch.eye(2), 2), 2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    crow, col, values = matrix
    height = values.shape[1]
    counts = crow.diff().long()
    block_rows = torch.repeat_interleave(torch.arange(counts.numel(), device=values.device), counts)
    blocks = values.new_zeros((counts.numel(), columns, height))
    return blocks.index_put((block_rows, col.long()), values).transpose(1, 2).reshape(-1, columns)


def check(matrix: RowBlocks, columns: int) -> None:
    """See that the indices are those of a matrix with so many columns.

    Raises:
        ValueError: they are not; the message says what is wrong.
    """
    crow, col, values = matrix
    if crow.dim() != 1 or not crow.numel() or col.dim() != 1 or values.dim() != 2 or col.numel() != values.shape[0]:
        raise ValueError(
            f"no block compressed rows: crow_indices {list(crow.shape)}, col_indices {list(col.shape)}, values "
            f"{list(values.shape)}"
        )
    if int(crow[0]) != 0 or int(crow[-1]) != col.numel() or bool((crow.diff() < 0).any()):
        raise ValueError(f"crow_indices have to rise from 0 to {col.numel()}")
    if col.numel() and not 0 <= int(col.min()) <= int(col.max()) < columns:
        raise ValueError(f"col_indices are {int(col.min())} to {int(col.max())}, and there are {columns} columns")
