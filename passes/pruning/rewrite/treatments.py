"""All treatments: importing this fills the table."""

from graphopt.passes.pruning.rewrite import (
    attention,
    contractions,
    creation,
    elementwise,
    joins,
    norms,
    recurrent,
    reductions,
    shapes,
)

__all__ = [
    "attention",
    "contractions",
    "creation",
    "elementwise",
    "joins",
    "norms",
    "recurrent",
    "reductions",
    "shapes",
]
