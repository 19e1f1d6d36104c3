"""Translation rules, one module for each family of operators. Importing this package registers them."""

from graphopt.frontends.onnx.operators import (
    convolution,
    creation,
    elementwise,
    indexing,
    matrices,
    normalization,
    pooling,
    reductions,
    shapes,
)

__all__ = [
    "convolution",
    "creation",
    "elementwise",
    "indexing",
    "matrices",
    "normalization",
    "pooling",
    "reductions",
    "shapes",
]
