"""Stored tensors that every call writes to shrink together with what is written, and stay right call after call."""

from __future__ import annotations

import copy
import io

import numpy as np
import torch
from torch import Tensor, nn

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.passes.pruning.masked import mask_module, mask_slices
from tests.passes.pruning.oracle import settle
from tests.zoo import MODELS


class Tracking(nn.Module):
    """Subtracts a running mean of its features, scaled or not."""

    def __init__(self, start: float, scaled: bool) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.scale = nn.Parameter(torch.rand(12) + 0.5) if scaled else None
        self.register_buffer("average", torch.full((12,), start))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        self.average.mul_(0.9).add_(y.mean(0), alpha=0.1)
        y = y - self.average
        return self.head(y if self.scale is None else y * self.scale)


def check(model: nn.Module, x: Tensor, state: str, calls: int = 3, **options: object) -> graphopt.CompiledModel:
    """The pruned module and the masked one give the same at every call, and the same state, cut to what is left."""
    small = graphopt.prune(model, (x,), ratio=0.5, dynamic_shapes="batch", **options)
    report = small.report.pruning
    analysis = ChannelAnalysis(graphopt.trace(model, (x,)))
    selection = {row.name: np.isin(np.arange(row.before), row.removed) for row in report.groups}
    masked = copy.deepcopy(model)
    mask_module(masked, mask_slices(analysis, selection))
    kept = analysis.removed(selection).kept
    constant = next(v for v in analysis.graph.constants.values() if state in v.constant.names)
    for call in range(calls):
        batch = torch.roll(x, call, -1) * (call + 1)
        torch.testing.assert_close(small(batch), masked(batch), rtol=1e-12, atol=1e-12)
    wanted = masked.state_dict()[state]
    for dim in range(wanted.dim()):
        if (constant, dim) in kept:
            wanted = wanted.index_select(dim, torch.from_numpy(kept[constant, dim]))
    torch.testing.assert_close(small.state_dict()[state], wanted)
    assert wanted.numel() < masked.state_dict()[state].numel()
    return small


def test_a_state_that_starts_from_zero_stays_zero_where_channels_go() -> None:
    model, x = settle(Tracking(0.0, scaled=False), 0), torch.randn(5, 6, dtype=torch.float64)
    model.average.zero_()
    small = check(model, x, "average")
    file = io.BytesIO()
    small.save(file)
    file.seek(0)
    torch.testing.assert_close(graphopt.load(file)(x), small(x))


def test_a_state_of_any_content_goes_where_a_scale_hides_it() -> None:
    model, x = settle(Tracking(1.0, scaled=True), 0), torch.randn(5, 6, dtype=torch.float64)
    check(model, x, "average")


def test_a_state_of_any_content_that_the_next_layer_sees_is_refused_with_the_reason() -> None:
    model, x = settle(Tracking(1.0, scaled=False), 0), torch.randn(5, 6, dtype=torch.float64)
    (refused,) = [r for r in graphopt.prune(model, (x,)).report.pruning.refused if r.name == "a.weight"]
    assert "would not be constant" in refused.reason


class Kept(nn.Module):
    """A state that is written something else than zero in removed channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("state", torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) * 1.0
        out = self.head(y + self.state)
        self.state.copy_(torch.cos(y).mean(0))
        return out


def test_a_state_that_would_not_stay_zero_is_refused_with_the_reason() -> None:
    model, x = settle(Kept(), 0), torch.randn(5, 6, dtype=torch.float64)
    model.state.zero_()
    (refused,) = [r for r in graphopt.prune(model, (x,)).report.pruning.refused if r.name == "a.weight"]
    assert "written back to 'state': its removed slots would not stay zero" in refused.reason


def test_a_state_that_is_an_input_belongs_to_the_caller() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor, cache: Tensor) -> Tensor:
            y = self.a(x)
            cache.add_(y.mean(0))
            return self.head(y)

    report = graphopt.prune(Cached(), (torch.randn(5, 6), torch.zeros(12))).report.pruning
    (refused,) = [r for r in report.refused if r.name == "a.weight"]
    assert "input 'cache'" in refused.reason or "which the caller sees" in refused.reason


def test_weights_that_a_model_rescales_in_place() -> None:
    entry = MODELS["hf-rwkv"]
    model, (args, kwargs) = entry.build(), entry.inputs()
    small = graphopt.prune(model, args, kwargs, ratio=0.5, dynamic_shapes=entry.dynamic_shapes())
    report = small.report.pruning
    assert report.after.parameters < 0.8 * report.before.parameters
    analysis = ChannelAnalysis(graphopt.trace(model, args, kwargs))
    masked = copy.deepcopy(model)
    mask_module(
        masked,
        mask_slices(analysis, {row.name: np.isin(np.arange(row.before), row.removed) for row in report.groups}),
    )
    for _ in range(2):
        torch.testing.assert_close(small(*args, **kwargs).logits, masked(*args, **kwargs).logits)
