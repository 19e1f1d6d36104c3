"""Random chains of views, concatenations, slices and sums between two linear layers."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphopt.analysis.channels import ChannelAnalysis
from tests.analysis.channels.oracle import check, trace
from tests.zoo import seeded

STEPS = ("split", "merge", "swap", "halve", "double", "twice", "flip", "shift", "fold", "relu")


class Chain(nn.Module):
    """Steps on the features of a linear layer, the last of them summed into another linear layer."""

    def __init__(self, width: int, steps: list[tuple[str, int]]) -> None:
        super().__init__()
        self.steps = steps
        self.first = nn.Linear(3, width)
        self.last = nn.Linear(self.run(torch.zeros(2, width)).flatten(1).shape[1], 2)

    def run(self, x: Tensor) -> Tensor:
        for name, pick in self.steps:
            x = step(name, pick, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self.first(x)).flatten(1))


def step(name: str, pick: int, x: Tensor) -> Tensor:
    """One step on a dim that `pick` chooses; a step that does not fit does nothing."""
    shape = list(x.shape)
    dim = 1 + pick % (x.ndim - 1)
    size = shape[dim]
    divisors = [d for d in range(2, size) if size % d == 0]
    if name == "split" and divisors and x.ndim < 5:
        outer = divisors[pick % len(divisors)]
        return x.reshape(*shape[:dim], outer, size // outer, *shape[dim + 1 :])
    if name == "merge" and dim + 1 < x.ndim:
        return x.flatten(dim, dim + 1)
    if name == "swap" and x.ndim > 2:
        return x.transpose(dim, x.ndim - 1 if dim == 1 else 1)
    if name == "halve" and size % 2 == 0:
        return x.chunk(2, dim)[pick % 2]
    if name == "double" and prod(shape) <= 96:
        return torch.cat([x, torch.tanh(x)], dim)
    if name == "twice":
        return x + torch.relu(x)
    if name == "flip":
        return x.flip(dim)
    if name == "shift" and size > 2:
        return torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, 0, 1)], dim)
    if name == "fold" and size % 2 == 0:
        first, second = x.chunk(2, dim)
        return first * second
    return torch.relu(x) if name == "relu" else x


@settings(max_examples=60, deadline=None)
@given(
    width=st.sampled_from([4, 6, 8, 12]),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), min_size=1, max_size=7),
    seed=st.integers(0, 99),
)
def test_any_selection_of_any_chain_is_sound(width: int, steps: list[tuple[str, int]], seed: int) -> None:
    with seeded(seed):
        module, x = Chain(width, steps), torch.randn(2, 3)
    module.requires_grad_(False)
    analysis = ChannelAnalysis(trace(module, x))
    generator = np.random.default_rng(seed)
    selection = {}
    for group in analysis.groups:
        selection[group.name] = generator.random(group.size) < 0.5
        for axis in group.axes:
            selection[group.name][axis.channels[0]] = False
    check(module, (x,), analysis, selection)
