"""Translation rules, one module for each family of operators. Importing this package registers them."""

from graphopt.frontends.onnx.operators import (
    attention,
    convolution,
    creation,
    elementwise,
    indexing,
    matrices,
    normalization,
    pooling,
    quantization,
    reductions,
    shapes,
)

__all__ = [
    "attention",
    "convolution",
    "creation",
    "elementwise",
    "indexing",
    "matrices",
    "normalization",
    "pooling",
    "quantization",
    "reductions",
    "shapes",
]
