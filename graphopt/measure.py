"""Before and after: latency, size and error of a model on several targets, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.analysis import CostModel, GraphCost
from graphopt.api import compile
from graphopt.compiled import CompiledModel
from graphopt.errors import GraphOptError
from graphopt.timing import interleaved_medians

SECONDS_PER_ROUND = 0.2
ORIGINAL = "original"


@dataclass
class Measurement:
    """One row: a target (and the engine that it chose), or the original in PyTorch eager.

    milliseconds: the median latency. speed_up: the original's latency over it. nodes: of the graph. megabytes: the
    stored tensors, in units of 10^6 bytes. max_error: the largest absolute difference from the original of any output,
    None for the original itself.
    """

    name: str
    milliseconds: float
    speed_up: float
    nodes: int
    megabytes: float
    max_error: float | None = None


def compare_targets(
    model: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    targets: Sequence[str],
    *,
    rounds: int = 5,
    original: nn.Module | None = None,
    **options: Any,
) -> list[Measurement]:
    """Measure `model` in PyTorch eager, and compiled for each of `targets`; the first row is the original.

    original: what runs as the original, for a model that is a file.
    rounds: the candidates run in turn, in this many rounds; each counts with the median of its rounds' medians.
    options: passed to `graphopt.compile`.

    Raises:
        GraphOptError: no targets, or one twice; whatever compiling raises.
    """
    if not targets or len(set(targets)) < len(targets):
        raise GraphOptError(f"give at least one target, and each once, got {', '.join(targets) or 'none'}")
    compiled = [compile(model, args, kwargs, target=target, **options) for target in targets]
    return compare(model if original is None else original, compiled, args, kwargs, rounds=rounds)


def compare(
    model: nn.Module,
    compiled: Sequence[CompiledModel],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    rounds: int = 5,
) -> list[Measurement]:
    """Measure `model` in PyTorch eager, and what was compiled from it; the first row is the original."""
    calls: dict[str, Callable[[], Any]] = {ORIGINAL: _call(model, args, kwargs)}
    calls.update((_title(made), _call(made, args, kwargs)) for made in compiled)
    with torch.no_grad():
        outputs = [pytree.tree_leaves(call()) for call in calls.values()]
        medians = interleaved_medians(calls, rounds, SECONDS_PER_ROUND)
    costs = [_before(compiled[0]), *(CostModel({}).graph(made.graph) for made in compiled)]
    return [
        Measurement(
            name,
            medians[name] * 1e3,
            medians[ORIGINAL] / medians[name],
            cost.nodes,
            cost.constant_bytes / 1e6,
            None if name == ORIGINAL else max_error(got, outputs[0]),
        )
        for name, cost, got in zip(calls, costs, outputs)
    ]


def max_error(got: Sequence[Any], want: Sequence[Any]) -> float:
    """The largest absolute difference of any pair of tensors; NaN where only one of them is NaN."""
    errors = [
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(got, want)
        if isinstance(a, torch.Tensor) and a.numel()
    ]
    return max(errors, default=0.0)


def _before(made: CompiledModel) -> GraphCost:
    cost = made.report.passes.before
    assert cost is not None
    return cost


def _title(made: CompiledModel) -> str:
    target = made.report.target
    return target if made.engine == target else f"{target} ({made.engine})"


def _call(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: model(*args, **kwargs)
