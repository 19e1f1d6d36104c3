"""Criteria: how important each channel is."""

from graphopt.passes.pruning.criteria import activation, gradient, magnitude  # noqa: F401  they register their criteria
from graphopt.passes.pruning.criteria.base import (
    Criterion,
    FunctionCriterion,
    GroupCriterion,
    checked,
    criterion_names,
    get_criterion,
    register_criterion,
)
from graphopt.passes.pruning.criteria.batches import Batch, read_batches
from graphopt.passes.pruning.criteria.evidence import Evidence
from graphopt.passes.pruning.criteria.normalize import NORMALIZATIONS, get_normalization
from graphopt.passes.pruning.criteria.objective import Objective

__all__ = [
    "NORMALIZATIONS",
    "Batch",
    "Criterion",
    "Evidence",
    "FunctionCriterion",
    "GroupCriterion",
    "Objective",
    "checked",
    "criterion_names",
    "get_criterion",
    "get_normalization",
    "read_batches",
    "register_criterion",
]
