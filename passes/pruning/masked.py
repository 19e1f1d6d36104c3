"""The masked model: the original with zeros in every parameter slice that makes a removed channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch

from graphopt.analysis.channels import ChannelAnalysis
from graphopt.ir import Graph
from graphopt.passes.pruning.rewrite.plan import Constants, zeroed_axes

Slices = dict[str, dict[int, np.ndarray]]
"""By the name of a parameter and a dim of it, the indices at which it is zero."""


def mask_slices(
    analysis: ChannelAnalysis, selection: Mapping[str, np.ndarray], *, constants: Constants = "zero"
) -> Slices:
    """The parameter slices that are zero in the masked model, under every name of each parameter.

    selection: by group, True for the channels that go. constants: "keep" leaves shifts as they are.

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[N, 4]
    ... parameter %w: f32[3, 4]
    ... parameter %v: f32[2, 3]
    ... %y = aten.linear(%x, %w)
    ... %z = aten.linear(%y, %v)
    ... return %z''')
    >>> mask_slices(ChannelAnalysis(graph), {"w": np.array([True, False, False])})
    {'w': {0: array([0])}}
    """
    removal = analysis.removed(selection)
    zeroed = zeroed_axes(analysis, shifts=constants == "zero")
    found: Slices = {}
    for (value, dim), kept in removal.kept.items():
        if value.constant is not None and (value, dim) in zeroed:
            gone = np.setdiff1d(np.arange(value.shape[dim]), kept)
            for name in value.constant.names or (value.name,):
                found.setdefault(name, {})[dim] = gone
    return found


def mask_module(module: torch.nn.Module, slices: Slices) -> None:
    """Set slices of a module's parameters and buffers to zero, in place.

    Raises:
        KeyError: the module has no tensor of that name.
    """
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, dims in slices.items():
            for dim, gone in dims.items():
                tensors[name].index_fill_(dim, torch.from_numpy(gone).to(tensors[name].device), 0)


def masked_graph(
    graph: Graph, analysis: ChannelAnalysis, selection: Mapping[str, np.ndarray], *, constants: Constants = "zero"
) -> Graph:
    """A copy of the graph with those slices set to zero; tensors without any are shared."""
    slices = mask_slices(analysis, selection, constants=constants)
    copy = graph.clone()
    for value in copy.constants.values():
        constant = value.constant
        assert constant is not None
        dims = slices.get((constant.names or (value.name,))[0])
        if dims:
            tensor = constant.tensor.detach().clone()
            for dim, gone in dims.items():
                tensor.index_fill_(dim, torch.from_numpy(gone).to(tensor.device), 0)
            value.constant = dataclasses.replace(constant, tensor=tensor, version=tensor._version)
    return copy
