"""The report of a choice, made before the graph is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from graphopt.passes.pruning.chooser import Choice, Chooser
from graphopt.passes.pruning.criteria import get_criterion
from graphopt.passes.pruning.report import GroupRow, PruningReport

if TYPE_CHECKING:
    from graphopt.passes.prune_channels import PruneChannels


def make_report(asked: PruneChannels, chooser: Chooser, choice: Choice) -> PruningReport:
    """Return the report of what is about to go."""
    selection = choice.pruning.selection
    costs = chooser.costs
    rows = [_row(group.name, group.size, choice.scores.get(group.name), selection) for group in chooser.analysis.groups]
    report = PruningReport(
        asked=asked.asked,
        criterion=get_criterion(asked.criterion).name,
        scope=asked.scope,
        before=costs.size({}),
        after=costs.size(selection),
        groups=rows,
        layers=costs.layers(selection),
        refused=choice.refused,
        exact=asked.constants == "zero",
    )
    if choice.found is not None and asked.speedup is not None:
        report.speedup = choice.found.given
    return report


def _row(name: str, size: int, scores: np.ndarray | None, selection: Mapping[str, np.ndarray]) -> GroupRow:
    gone = selection.get(name, np.zeros(size, dtype=bool))
    if scores is None:
        return GroupRow(name, size, size - int(gone.sum()), removed=tuple(np.flatnonzero(gone).tolist()))
    return GroupRow(
        name,
        size,
        size - int(gone.sum()),
        float(scores.mean()),
        float(scores[~gone].min()) if not gone.all() else None,
        float(scores[gone].max()) if gone.any() else None,
        tuple(np.flatnonzero(gone).tolist()),
    )
