"""Bias correction: quantization moves the mean of a layer's output, and its bias moves it back.

    b ← b + E[y − ŷ]       for each output channel, ŷ with everything before it quantized and corrected

The expectation is over the samples and positions. It is an estimate, so each shift is taken times the share of it that
is no chance, m² / (m² + s²) with s² the variance of the mean m over the samples (a Wiener filter).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import Graph, Node
from graphopt.passes.quantization.lockstep import Lockstep

Means = torch.Tensor
"""The mean of a layer's output over positions, [samples, channels]."""


def channel_axis(node: Node) -> int:
    """The dim of a layer's output that its bias is added along, from the end."""
    if not node.op.base.startswith("aten.conv"):
        return -1
    return -1 - int(node.op.base[len("aten.conv")])


def layer_means(graph: Graph, layers: Sequence[Node], sets: Sequence[Sequence[Any]]) -> dict[Node, Means]:
    """Run the graph and return the means of the layers' outputs."""
    wanted = set(layers)
    found: dict[Node, Means] = {}

    def watch(node: Node, results: list[list[Any]]) -> None:
        if node in wanted:
            found[node] = _means(node, results)

    Lockstep(graph).run_all(sets, watch)
    return found


def shifts(graph: Graph, layers: Mapping[Node, Means], sets: Sequence[Sequence[Any]]) -> dict[Node, torch.Tensor]:
    """Return what to add to the bias of each layer, [channels]. layers: with what their means should be."""
    found: dict[Node, torch.Tensor] = {}

    def watch(node: Node, results: list[list[Any]]) -> None:
        wanted = layers.get(node)
        if wanted is None:
            return
        shift = found[node] = _certain(wanted - _means(node, results))
        axis = channel_axis(node)
        for (output,) in results:
            output += shift.to(output.dtype).reshape(-1, *[1] * (-1 - axis))

    Lockstep(graph).run_all(sets, watch)
    return found


def _certain(differences: torch.Tensor) -> torch.Tensor:
    """The mean over the samples, times the share of it that is no chance."""
    mean = differences.mean(0)
    if len(differences) < 2:
        return torch.zeros_like(mean)
    chance = differences.var(0) / len(differences)
    return mean * mean.square() / (mean.square() + chance).clamp(min=torch.finfo(torch.float64).tiny)


def _means(node: Node, results: list[list[Any]]) -> Means:
    axis = channel_axis(node)
    by_channel = [y.double().movedim(axis, 0).reshape(y.shape[axis], -1) for (y,) in results]
    return torch.stack([y.mean(1) if y.numel() else y.new_zeros(len(y)) for y in by_channel])
