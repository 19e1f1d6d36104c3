"""Inference rules for common operators: microseconds where a run on fake tensors costs hundreds."""

from graphopt.ops.inference import (
    convolution,
    creation,
    elementwise,
    fourier,
    indexing,
    joining,
    matrices,
    normalization,
    pooling,
    recurrent,
    reductions,
    slicing,
    views,
)
from graphopt.ops.inference.table import RULES, Mismatch, RuleInference, find_rule, overloads, rule

__all__ = [
    "RULES",
    "Mismatch",
    "RuleInference",
    "convolution",
    "creation",
    "elementwise",
    "find_rule",
    "fourier",
    "indexing",
    "joining",
    "matrices",
    "normalization",
    "overloads",
    "pooling",
    "recurrent",
    "reductions",
    "rule",
    "slicing",
    "views",
]
