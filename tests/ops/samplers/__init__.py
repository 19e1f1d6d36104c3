"""Samplers for every operator that has an inference rule. Importing this package fills `calls.SAMPLERS`."""

from tests.ops.samplers import (
    creation,
    elementwise,
    fourier,
    indexing,
    joining,
    layers,
    matrices,
    reductions,
    slicing,
    views,
)

__all__ = [
    "creation",
    "elementwise",
    "fourier",
    "indexing",
    "joining",
    "layers",
    "matrices",
    "reductions",
    "slicing",
    "views",
]
