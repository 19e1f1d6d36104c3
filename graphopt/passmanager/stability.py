"""Whether a difference is one of rounding at a tie: how far a graph's own outputs move when its data move by an ulp.

An argmax of two equal scores, a comparison at its threshold, a router between two experts: there the last bit decides
and no implementation is right. Such a point shows itself: there the original graph changes its mind, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from graphopt.ir import Graph
from graphopt.passmanager.compare import flat, wide
from graphopt.passmanager.samples import SEED

TRIALS = 6
STEPS = 4.0
"""A perturbation is up to this many ulp: about what the rounding errors of a long sum come to."""

Run = Callable[[Graph, Sequence[Any]], list[Any]]


def instability(graph: Graph, inputs: Sequence[Any], run: Run, unit: float | None) -> list[torch.Tensor]:
    """Return for each output how far each element moves under perturbation, as flat float64 tensors.

    unit: the relative step; None takes each tensor's own ulp.
    """
    generator = torch.Generator().manual_seed(SEED)
    reference = [_flat(v) for v in flat(run(graph, inputs))]
    worst = [torch.zeros_like(r) for r in reference]
    for _ in range(TRIALS):
        outputs = run(_perturbed(graph, generator, unit), [_perturb(x, generator, unit) for x in inputs])
        for index, output in enumerate(map(_flat, flat(outputs))):
            if output.shape != reference[index].shape:
                worst[index].fill_(torch.inf)
                continue
            moved = (output - reference[index]).abs_().nan_to_num_(nan=torch.inf)
            both_nan = output.isnan() & reference[index].isnan()
            worst[index] = torch.maximum(worst[index], moved.masked_fill_(both_nan, 0))
    return worst


def _flat(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
        return value.detach().reshape(-1).to("cpu", torch.float64)
    return wide(value)


def _perturbed(graph: Graph, generator: torch.Generator, unit: float | None) -> Graph:
    copy = graph.clone()
    for value in copy.constants.values():
        if value.constant is not None:
            value.constant = replace(value.constant, tensor=_perturb(value.constant.tensor.detach(), generator, unit))
    return copy


def _perturb(value: Any, generator: torch.Generator, unit: float | None) -> Any:
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value
    step = STEPS * (torch.finfo(value.dtype).eps if unit is None else unit)
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float64).mul_(2).sub_(1).mul_(step).add_(1)
    moved = value.double() * noise.to(value.device)
    return moved if unit is not None else moved.to(value.dtype)
