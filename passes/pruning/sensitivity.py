"""How much the model minds: each group pruned alone, at several shares, in the masked model."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.ir import Graph
from graphopt.passes.pruning.criteria import Evidence
from graphopt.passes.pruning.fidelity import MaskedModel
from graphopt.passes.pruning.report import Curve
from graphopt.passes.pruning.selection import Candidate, nearest


def sweep(
    graph: Graph,
    analysis: ChannelAnalysis,
    candidates: Sequence[Candidate],
    shares: Sequence[float],
    evidence: Evidence,
) -> list[Curve]:
    """Return the sensitivity curve of each group.

    A value is the loss on the data with that share of the group's channels masked, if there is a loss; else the
    relative error of the outputs, √(Σ‖y − y₀‖² / Σ‖y₀‖²) over all floating-point outputs. Costs one run of the model a
    batch, group and share; shares that select the same channels are run once.
    """
    interpreter = Interpreter(graph)
    baseline = [interpreter.run(*batch.inputs) for batch in evidence.batches]
    curves = []
    for candidate in candidates:
        known = {0: _judge(graph, baseline, baseline, evidence)}
        values = []
        for share in shares:
            count = min(candidate.rounded(nearest(share * candidate.group.size)), candidate.limit)
            if count not in known:
                masked = MaskedModel(graph, analysis, {candidate.group.name: candidate.removed(count)})
                outputs = [masked.run(batch.inputs) for batch in evidence.batches]
                known[count] = _judge(graph, outputs, baseline, evidence)
            values.append(known[count])
        measure = "error" if evidence.objective is None else "loss"
        curves.append(Curve(candidate.group.name, tuple(shares), tuple(values), measure))
    return curves


def _judge(graph: Graph, outputs: list[list[Any]], baseline: list[list[Any]], evidence: Evidence) -> float:
    if evidence.objective is not None:
        objective = evidence.objective
        losses = [float(objective(graph, flat, batch)) for flat, batch in zip(outputs, evidence.batches)]
        return sum(losses) / len(losses)
    difference = energy = 0.0
    for flat, reference in zip(outputs, baseline):
        for got, want in zip(flat[: len(graph.outputs)], reference):
            if isinstance(want, torch.Tensor) and want.is_floating_point():
                difference += float((got.double() - want.double()).square().sum())
                energy += float(want.double().square().sum())
    return sqrt(difference / energy) if energy else 0.0
