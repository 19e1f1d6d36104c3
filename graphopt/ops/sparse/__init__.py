"""Sparse weights: their storage, and the operators `graphopt.sparse_linear` and `graphopt.sparse_conv2d`."""

from graphopt.ops.sparse import conv, linear
from graphopt.ops.sparse.storage import RowBlocks, to_dense, to_row_blocks

__all__ = ["RowBlocks", "conv", "linear", "to_dense", "to_row_blocks"]
