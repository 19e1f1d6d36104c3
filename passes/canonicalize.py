"""Bring a graph into normal form by local identities: about a hundred rules, by subject in `graphopt.passes.rules`.

    x + 0 → x    −(−x) → x    relu(clamp(x)) → clamp(x)    permute(permute(x)) → permute(x)    cat(split(x)) → x    …

Each rule states its own float contract; what cannot be proved is left alone, with the reason in the statistics.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.passes.rules import (
    aliases,
    arithmetic,
    casts,
    clamps,
    control_flow,
    indexing,
    logic,
    noops,
    permutes,
    pieces,
    powers,
    reshapes,
    scalars,
)
from graphopt.passes.support.lossless import LosslessRules
from graphopt.rewrite import Contract, Rule

RULES: tuple[Rule, ...] = (
    *aliases.RULES,
    *noops.RULES,
    *arithmetic.RULES,
    *powers.RULES,
    *scalars.RULES,
    *logic.RULES,
    *clamps.RULES,
    *casts.RULES,
    *permutes.RULES,
    *reshapes.RULES,
    *pieces.RULES,
    *indexing.RULES,
    *control_flow.RULES,
    *scalars.LAST,
)


@dataclass(frozen=True)
class Canonicalize(LosslessRules):
    """Apply the identities until none fires."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """All tables, in order of preference."""
        return RULES
