"""Lowerings of ATen operators by family. Importing this package fills the table of `registry`."""

from graphopt.backends.onnx.lowerings import (
    activation,
    conv,
    elementwise,
    matmul,
    norm,
    pool,
    views,
)

__all__ = ["activation", "conv", "elementwise", "matmul", "norm", "pool", "views"]
