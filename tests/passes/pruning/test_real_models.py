"""Pruned = masked on real architectures, in double precision, at sizes that they were not captured at."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.analysis.interpreter import Interpreter
from graphopt.ir import verify
from graphopt.passes.pruning.masked import mask_module, mask_slices
from graphopt.passes.pruning.rewrite import prune_graph
from tests.passes.pruning.oracle import random_selection
from tests.zoo import MODELS
from tests.zoo.audit import call, other_sizes

CASES = [
    ("lenet", 0.75), ("hf-mobilenet-v2", 0.5), ("shufflenet", 0.25), ("hf-convnext", 0.5), ("unet", 0.75),
    ("hf-swin", 0.5), ("hf-bloom", 0.75), ("hf-llama", 0.25), ("hf-modernbert", 0.5), ("hf-whisper", 0.5),
    ("gru", 0.75), ("transformer-encoder", 0.5), ("hf-mamba", 0.25), ("hf-cvt", 0.75),
    ("audio", 0.5), ("hf-bit", 0.5), ("hf-wav2vec2", 0.5), ("hf-mixtral", 0.5), ("hf-falcon", 0.5),
]  # fmt: skip
"""The other models, all ratios and the engines are the matter of `benchmarks/prune_models.py`."""


SINGLE = {"hf-mixtral"}
"""Models with kernels for single precision alone."""


def widened(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf


@pytest.mark.parametrize(("name", "ratio"), CASES)
def test_model(name: str, ratio: float) -> None:
    entry = MODELS[name]
    model, (args, kwargs) = entry.build(), entry.inputs()
    graph = graphopt.trace(model, args, kwargs, dynamic_shapes=entry.dynamic_shapes())
    original, analysis = graph.clone(), ChannelAnalysis(graph)
    report = prune_graph(graph, analysis, random_selection(analysis, ratio, 0))
    verify(graph)
    assert report.changed
    masked = copy.deepcopy(model)
    mask_module(masked, mask_slices(ChannelAnalysis(original), report.selection))
    wide = name not in SINGLE
    for inputs in other_sizes(entry)[:1]:
        given = pytree.tree_map(widened, inputs) if wide else inputs
        leaves = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        wanted = call(torch.nn.Module.double(masked) if wide else masked, given)
        for got, want in zip(Interpreter(graph, float64=wide).run(*leaves), wanted):
            assert (got - want).abs().max() <= (1e-6 if wide else 1e-5) * want.abs().max()


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("stateful-lstm", {"rnn.weight_ih_l0": "input 'state_0'", "head.weight": "output 0"}),
        ("graph-network", {"message.weight": "after aten.index_add", "update.weight": "input 'nodes'"}),
        ("ranker", {"weight": "input 'items'", "score.weight": "input 'items'"}),
        ("multi-output", {"stem.weight": "output 4", "low.weight": "output 0", "high.weight": "output 1"}),
        ("nested-input", {"left.weight": "output 0", "right.weight": "output 0"}),
        ("in-place", {"fc.weight": "one slot alone"}),
        ("cond", {"positive.weight": "higher_order.cond has no rule", "negative.weight": "has no rule"}),
        ("data-dependent-shape", {"fc.weight": "output 0"}),
        ("noise", {"fc.weight": "input 'x'"}),
        ("custom-operator", {"first.weight": "soft_clip has no rule", "second.weight": "output 0"}),
        ("redundant", {"fc.weight": "sum over it"}),
        ("constant-output", {"weight": "output 0"}),
    ],
)
def test_models_without_channels_say_why(name: str, reasons: dict[str, str]) -> None:
    entry = MODELS[name]
    model, (args, kwargs) = entry.build(), entry.inputs()
    shapes = entry.dynamic_shapes() if entry.dynamic is not None else None
    analysis = ChannelAnalysis(graphopt.trace(model, args, kwargs, dynamic_shapes=shapes))
    assert not analysis.groups
    found = {frozen.name: frozen.reason for frozen in analysis.frozen}
    assert all(reason in found[weight] for weight, reason in reasons.items()), found
    weights = {n for n, p in model.named_parameters() if p.dim() > 1}
    assert weights <= found.keys()
