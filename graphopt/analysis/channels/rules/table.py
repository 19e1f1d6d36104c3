"""The table of rules: for an operator, how the dims of its results follow from those of its operands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node

Rule = Callable[[Tracker, Node], None]
_Rule = TypeVar("_Rule", bound=Rule)

RULES: dict[str, Rule] = {}
"""Rules by the operator's name without the dialect `aten` and the overload (`conv2d`); one with it (`pow.Scalar`) goes
first. Operators of other dialects go by their full base name."""


def rule(*names: str) -> Callable[[_Rule], _Rule]:
    """Register a function for operators; each argument may hold several names separated by spaces."""

    def register(function: _Rule) -> _Rule:
        for name in " ".join(names).split():
            assert name not in RULES, name
            RULES[name] = function
        return function

    return register


def find_rule(node: Node) -> Rule | None:
    """The rule of a node's operator, or None."""
    dialect, _, rest = node.op.name.partition(".")
    if dialect != "aten":
        return RULES.get(node.op.base)
    return RULES.get(rest) or RULES.get(rest.partition(".")[0])
