"""Before and after: latency, size and error of a model on several targets, in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.api import compile, trace
from graphopt.ir import Graph
from graphopt.timing import interleaved_medians

SECONDS_PER_ROUND = 0.2


@dataclass
class Measurement:
    """One row: the median latency, and the error against eager as the largest absolute difference of any output."""

    name: str
    milliseconds: float
    speed_up: float
    nodes: int
    megabytes: float
    max_error: float | None = None


def compare_targets(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    targets: Sequence[str],
    *,
    rounds: int = 5,
    **options: Any,
) -> list[Measurement]:
    """Measure `model` in PyTorch eager and compiled for each of `targets`; the first row is eager.

    rounds: the candidates run in turn, in this many rounds; each counts with the median of its rounds' medians.
    options: passed to `graphopt.compile`.
    """
    named = dict(kwargs)
    compiled = {target: compile(model, args, named, target=target, **options) for target in targets}
    calls: dict[str, Callable[[], Any]] = {"eager": lambda: model(*args, **named)}
    for target, made in compiled.items():
        calls[target if made.engine == target else f"{target} ({made.engine})"] = _call(made, args, named)
    with torch.no_grad():
        outputs = {name: pytree.tree_leaves(call()) for name, call in calls.items()}
        medians = interleaved_medians(calls, rounds, SECONDS_PER_ROUND)
    eager = medians["eager"]
    graphs = [trace(model, args, named), *(made.graph for made in compiled.values())]
    return [
        Measurement(
            name,
            medians[name] * 1e3,
            eager / medians[name],
            len(graph),
            megabytes(graph),
            None if name == "eager" else _max_error(outputs[name], outputs["eager"]),
        )
        for name, graph in zip(calls, graphs)
    ]


def megabytes(graph: Graph) -> float:
    """The size of the stored tensors, each counted once, in units of 10^6 bytes."""
    tensors = {id(v.constant.tensor): v.constant.tensor for v in graph.constants.values() if v.constant is not None}
    return sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6


def _call(made: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[[], Any]:
    return lambda: made(*args, **kwargs)


def _max_error(got: Sequence[Any], want: Sequence[Any]) -> float:
    errors = [
        (a.double() - b.double()).abs().max().item()
        for a, b in zip(got, want)
        if isinstance(a, torch.Tensor) and a.numel()
    ]
    return max(errors, default=0.0)
