"""Sparse weights: their blocks, and the operators `graphopt.sparse_linear` and `graphopt.sparse_conv2d`."""

from graphopt.ops.sparse import conv, linear
from graphopt.ops.sparse.blocks import Compressed, block_counts, compress, dense

__all__ = ["Compressed", "block_counts", "compress", "conv", "dense", "linear"]
