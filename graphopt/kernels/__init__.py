"""Kernels made as a program runs, for the chip that runs it: sparse weights times dense activations."""

from graphopt.kernels.jit import unavailable
from graphopt.kernels.sparse import SparseMatrix, multiply

__all__ = ["SparseMatrix", "multiply", "unavailable"]
