"""Models for bugs that the zoo's own inputs don't reach."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sensors(nn.Module):
    """Regression on readings some of which are missing (NaN); a row with a missing one gives NaN on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, readings: Tensor) -> Tensor:
        missing = (readings * 0.0).sum(-1, keepdim=True)
        return self.layers(torch.nan_to_num(readings)) + missing


def readings(generator: torch.Generator) -> Tensor:
    """Readings of 5 sensors, two of them missing."""
    made = torch.randn(5, 6, generator=generator)
    made[1, 2] = made[3, 0] = float("nan")
    return made
