"""Small networks whose groups of channels are known, with random weights that are far from trivial."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphopt
from graphopt.analysis.channels import ChannelAnalysis
from graphopt.passes.pruning.criteria import Evidence, Objective, read_batches
from tests.zoo.model import perturb_vectors, seeded


class Convolutions(nn.Module):
    """Two groups: 6 channels between the convolutions, 8 between the second one and the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.fc(torch.flatten(x, 1))


class Heads(nn.Module):
    """12 rows that a view splits into 3 heads of 4: one group of heads, one of positions within them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 12, bias=False)
        self.second = nn.Linear(12, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.relu(self.first(x)).view(-1, 3, 4)
        return self.second((2 * heads).flatten(1))


def convolutions(seed: int = 0) -> Convolutions:
    with seeded(seed), torch.no_grad():
        model = Convolutions().eval()
        for norm in (model.bn1, model.bn2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 1.5)
        perturb_vectors(model, 0.3)
    return model


def images(count: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 4) -> Tensor:
    return torch.arange(count) % 5


def evidence(model: nn.Module, x: Tensor, loader: Any = None, loss: Any = None, dynamic: Any = "batch") -> Evidence:
    graph = graphopt.trace(model, (x,), dynamic_shapes=dynamic)
    batches = None if loader is None else lambda: read_batches(graph, loader, 99)
    return Evidence(ChannelAnalysis(graph), batches, None if loss is None else Objective(loss))


def group(name: str, size: int, axes: Any = None, kind: str = "") -> Any:
    """A group as selections see it. axes: the channels of each dim; by default one dim with all."""
    dims = [range(size)] if axes is None else axes
    return SimpleNamespace(
        name=name,
        size=size,
        axes=[SimpleNamespace(channels=np.array(list(dim))) for dim in dims],
        members=(),
        fingerprint=kind or name,
    )
