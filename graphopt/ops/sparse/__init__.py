"""Layers whose weights are stored sparsely: `graphopt.sparse_linear` and `graphopt.sparse_conv`."""

from graphopt.ops.sparse import convolution, linear
from graphopt.ops.sparse.blocks import HEIGHTS, Compressed, block_counts, compress, dense
from graphopt.ops.sparse.linear import sparse_linear

__all__ = ["HEIGHTS", "Compressed", "block_counts", "compress", "convolution", "dense", "linear", "sparse_linear"]
