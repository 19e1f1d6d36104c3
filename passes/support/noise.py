"""How much of what a layer or a model gives is noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def energies(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Σ‖wanted‖² and Σ‖found − wanted‖² over several tensors, in double precision."""
    signal = math.fsum(float(w.double().square().sum()) for w in wanted)
    noise = math.fsum(float((f.double() - w.double()).square().sum()) for w, f in zip(wanted, found))
    return signal, noise


def decibels(signal: float, noise: float) -> float:
    """10 log₁₀(signal / noise); infinite without noise."""
    return math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise)
