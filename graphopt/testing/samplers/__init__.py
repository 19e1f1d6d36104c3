"""Samplers of operators by family. Importing this package fills the table."""

from graphopt.testing.samplers import (
    binary,
    casts,
    combine,
    control,
    creation,
    indexing,
    matrices,
    motifs,
    networks,
    normalization,
    pooling,
    reductions,
    select,
    shapes,
    unary,
)
from graphopt.testing.samplers.table import (
    SAMPLERS,
    Sampler,
    register_sampler,
    sampled_operators,
    unregister_sampler,
)

__all__ = [
    "SAMPLERS",
    "Sampler",
    "binary",
    "casts",
    "combine",
    "control",
    "creation",
    "indexing",
    "matrices",
    "motifs",
    "networks",
    "normalization",
    "pooling",
    "reductions",
    "register_sampler",
    "sampled_operators",
    "select",
    "shapes",
    "unary",
    "unregister_sampler",
]
