"""Constants that take the place of others."""

from __future__ import annotations

from graphopt.ir import Value
from graphopt.rewrite import Rewriter


def drop_unused(rewriter: Rewriter, *values: Value | None) -> None:
    """Remove those of some constants that nothing uses any more."""
    for value in values:
        if value is not None and not value.num_uses and rewriter.graph.constants.get(value.name) is value:
            rewriter.drop_constant(value)


def take_name(rewriter: Rewriter, value: Value, name: str) -> None:
    """Let a constant have a name in the graph, if no other has it."""
    constants = rewriter.graph.constants
    if name not in constants:
        del constants[value.name]
        value.name = name
        constants[name] = value
