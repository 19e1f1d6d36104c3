"""Translation rules, one module for each family of operators. Importing this package registers them."""

from graphopt.frontends.onnx.operators import (
    attention,
    convolution,
    creation,
    elementwise,
    gating,
    indexing,
    linear_attention,
    matrices,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resize,
    rotary,
    shapes,
)

__all__ = [
    "attention",
    "convolution",
    "creation",
    "elementwise",
    "gating",
    "indexing",
    "linear_attention",
    "matrices",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reductions",
    "resize",
    "rotary",
    "shapes",
]
