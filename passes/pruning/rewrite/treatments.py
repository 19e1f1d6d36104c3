"""All treatments: importing this fills the table."""

from graphopt.passes.pruning.rewrite import (
    attention,
    contractions,
    elementwise,
    joins,
    norms,
    recurrent,
    reductions,
    shapes,
)

__all__ = ["attention", "contractions", "elementwise", "joins", "norms", "recurrent", "reductions", "shapes"]
