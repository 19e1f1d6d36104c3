"""Pruned against masked, with the eager module, its own parameters set to zero, as the judge."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.analysis.interpreter import Interpreter
from graphopt.ir import Graph, verify
from graphopt.passes.pruning.masked import mask_module, mask_slices
from graphopt.passes.pruning.rewrite import PruneReport, prune_graph


@dataclass
class Pruned:
    """A pruned graph, its report, and the module whose parameters are zeroed in its place."""

    graph: Graph
    report: PruneReport
    masked: nn.Module
    slices: dict[str, dict[int, np.ndarray]]


def random_selection(analysis: ChannelAnalysis, ratio: float, seed: int) -> dict[str, np.ndarray]:
    """Channels at random; every dim keeps a slot."""
    generator = np.random.default_rng(seed)
    selection = {}
    for group in analysis.groups:
        chosen = generator.random(group.size) < ratio
        for axis in group.axes:
            if chosen[axis.channels].all():
                chosen[axis.channels[0]] = False
        selection[group.name] = chosen
    return selection


def prune(
    module: nn.Module, args: Sequence[Any], *, ratio: float = 0.5, seed: int = 0, dynamic: Any = None, **options: Any
) -> Pruned:
    """Trace a module, prune the trace at random, and zero the same channels in a copy of the module."""
    graph = graphopt.trace(module, tuple(args), dynamic_shapes=dynamic)
    original, analysis = graph.clone(), ChannelAnalysis(graph)
    report = prune_graph(graph, analysis, random_selection(analysis, ratio, seed), **options)
    verify(graph)
    constants = options.get("constants", "zero")
    slices = mask_slices(ChannelAnalysis(original), report.selection, constants=constants)
    masked = copy.deepcopy(module)
    mask_module(masked, slices)
    return Pruned(graph, report, masked, slices)


def worst_error(pruned: Pruned, args: Sequence[Any]) -> float:
    """The greatest difference to the masked module, relative to the scale of each output."""
    with torch.no_grad():
        wanted = pytree.tree_leaves(pruned.masked(*args))
    got = Interpreter(pruned.graph).run(*args)[: len(wanted)]
    worst = 0.0
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape and torch.equal(a.isfinite(), b.isfinite())
        scale = float(b.abs().max().clamp_min(1e-6))
        worst = max(worst, float((a - b).abs().max()) / scale)
    return worst


def settle(module: nn.Module, seed: int) -> nn.Module:
    """Double precision, evaluation, and parameters and statistics away from trivial values."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(noise + 0.5 if name.endswith("running_var") else tensor + (noise - 0.5) * 0.6)
    return module
