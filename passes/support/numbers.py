"""Numbers that a node takes as an attribute or as a constant tensor."""

from __future__ import annotations

from typing import Any

from graphopt.ir import Value
from graphopt.passes.rules.conditions import is_number
from graphopt.rewrite import uniform_value
from graphopt.rewrite.pattern import Surroundings


def number_of(argument: Any, surroundings: Surroundings) -> float | int | None:
    """The number that an attribute is, or that a stored tensor holds everywhere and will go on to hold; else None."""
    if isinstance(argument, Value):
        return uniform_value(argument) if surroundings.is_fixed(argument) else None
    return argument if is_number(argument) else None
