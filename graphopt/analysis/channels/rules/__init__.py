"""Rules by family of operators."""

from __future__ import annotations

from graphopt.analysis.channels.rules import (
    attention,
    convolution,
    creation,
    einsum,
    elementwise,
    embedding,
    joining,
    linear,
    normalization,
    pooling,
    recurrent,
    reductions,
    views,
)
from graphopt.analysis.channels.rules.table import RULES, find_rule, rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node, Trait


def apply(tracker: Tracker, node: Node) -> None:
    """Set the dims of a node's results."""
    found = find_rule(node)
    if found is None and node.op.has(Trait.ELEMENTWISE) and len(node.results) == 1:
        found = elementwise.elementwise
    (found or barrier)(tracker, node)


def barrier(tracker: Tracker, node: Node) -> None:
    """An operator that no rule knows: nothing that goes in or comes out can be removed."""
    for value in tracker.operands():
        tracker.freeze_all(value, f"{node.op.base} has no rule")
    for index in range(len(node.results)):
        tracker.opaque_result(index, f"{node.op.base} has no rule")


__all__ = [
    "RULES",
    "apply",
    "attention",
    "barrier",
    "convolution",
    "creation",
    "einsum",
    "elementwise",
    "embedding",
    "find_rule",
    "joining",
    "linear",
    "normalization",
    "pooling",
    "recurrent",
    "reductions",
    "rule",
    "views",
]
