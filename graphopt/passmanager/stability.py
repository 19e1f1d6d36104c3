"""Whether a difference is one of rounding, by Monte Carlo arithmetic: at a tie, or because much cancels.

An argmax of two equal scores, a comparison at its threshold, a router between two experts: there the last bit decides,
and no implementation is right. Such a point shows itself when the original graph runs with a random relative error of
some ulp added to the result of each arithmetic operator: its output jumps. So do the outputs of an ill-conditioned
graph. Where the output only moves in proportion, a difference is an error of the rewrite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from graphopt.ir import Graph, TensorType
from graphopt.passmanager.compare import wide
from graphopt.passmanager.noise import STEPS, noise_steps
from graphopt.passmanager.runner import Runner
from graphopt.passmanager.samples import SEED

TRIALS = 16
JUMP = 64.0
"""An element that moves by more than this many ulp of the output's scale has jumped."""
MARGIN = 8.0
"""How far beyond the largest jump that was seen a difference may go."""


def jumps(
    runner: Runner,
    graph: Graph,
    inputs: Sequence[Any],
    index: int,
    gap: torch.Tensor,
    *,
    unit: float | None = None,
) -> bool:
    """Return whether output `index` of the graph jumps under noise wherever `gap` is positive, by as much or nearly.

    gap: by how much each element (flat) breaks its bound. unit: the ulp of the noise in a float64 run; None runs in the
        working precision.
    """
    generator = torch.Generator().manual_seed(SEED)
    reference = _flat((runner.work if unit is None else runner.wide)(graph, inputs)[index])
    if reference.shape != gap.shape:
        return False
    floor = JUMP * _unit(graph, index, unit) * _scale(reference)
    steps = noise_steps(graph)
    worst = torch.zeros_like(reference)
    for _ in range(TRIALS):
        output = _flat(runner.noisy(graph, inputs, generator, unit, steps)[index])
        if output.shape != reference.shape:
            return True  # the shape itself depends on the data
        moved = (output - reference).abs_().nan_to_num_(nan=torch.inf)
        worst = torch.maximum(worst, moved.masked_fill_(output.isnan() & reference.isnan(), 0))
        if bool(((gap <= MARGIN * worst) & (worst > floor) | (gap <= 0)).all()):
            return True
    return False


def rounding(runner: Runner, graph: Graph, inputs: Sequence[Any], index: int, *, enough: float = math.inf) -> float:
    """Return how far output `index` moves at most if each operation rounds otherwise, in the working precision.

    enough: stop once it has moved so far.

    A graph's own error may be small by luck: of one run on a few numbers, it says little.
    """
    generator = torch.Generator().manual_seed(SEED)
    reference = _flat(runner.work(graph, inputs)[index])
    worst = 0.0
    steps = noise_steps(graph) / STEPS
    for _ in range(TRIALS // 2):
        output = _flat(runner.noisy(graph, inputs, generator, None, steps)[index])
        if output.shape == reference.shape and output.numel():
            moved = (output - reference).abs_()
            worst = max(worst, moved[moved.isfinite()].max().item() if bool(moved.isfinite().any()) else 0.0)
        if worst >= enough:
            break
    return worst


def _unit(graph: Graph, index: int, unit: float | None) -> float:
    """The ulp of an output; an integer's is nothing, since any change of it is a jump."""
    type_ = graph.returned[index].type if index < len(graph.returned) else None
    if not isinstance(type_, TensorType) or not type_.dtype.is_floating:
        return 0.0
    return torch.finfo(type_.dtype.torch).eps if unit is None else unit


def _scale(reference: torch.Tensor) -> float:
    finite = reference[reference.isfinite()]
    return finite.abs().max().item() if finite.numel() else 0.0


def _flat(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
        return value.detach().reshape(-1).to("cpu", torch.float64)
    return wide(value)
