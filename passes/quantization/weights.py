"""Quantizing stored weights: a symmetric scale for each output channel, and biases in 32-bit integers.

    W ≈ s_w · W_q      b ≈ s_x s_w · b_q,  b_q = round(b / (s_x s_w))

The scale is the largest magnitude over the greatest integer, or the one with the least squared error. Where a bias
would not fit 32 bits (a channel of tiny weights) the scale is widened until it does.
"""

from __future__ import annotations

import torch

from graphopt.ops.quantization import Format
from graphopt.ops.quantization.arithmetic import dequantized, quantized

_RATIOS = torch.linspace(0.5, 1.0, 51)
_BIAS_LIMIT = 2.0**30


def weight_scales(
    weight: torch.Tensor, format_: Format, axis: int | None, search: bool, smallest: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the scales, one for each index along `axis` or one in all, in single precision.

    search: minimize the squared error instead of covering the largest number. smallest: what they may not fall below.
    """
    rows = (
        weight.detach().float().reshape(1, -1) if axis is None else weight.detach().float().movedim(axis, 0).flatten(1)
    )
    largest = rows.abs().amax(1) / format_.high
    scales = _searched(rows, largest, format_) if search else largest
    if smallest is not None:
        scales = torch.maximum(scales, smallest)
    scales = torch.where(scales > 0, scales, _usual(scales))
    return scales if axis is not None else scales.reshape(())


def least_scales(bias: torch.Tensor | None, input_scale: torch.Tensor) -> torch.Tensor | None:
    """The smallest scales of weights under which |b| / (s_x s_w) stays within 2^30."""
    return None if bias is None else bias.detach().float().abs() / (input_scale * _BIAS_LIMIT)


def _usual(scales: torch.Tensor) -> torch.Tensor:
    """A scale for channels of zeros: the least of the others, or 1."""
    positive = scales[scales > 0]
    return positive.amin() if positive.numel() else torch.ones(())


def _searched(rows: torch.Tensor, largest: torch.Tensor, format_: Format) -> torch.Tensor:
    best = largest.clone()
    least = torch.full_like(largest, torch.inf)
    for ratio in _RATIOS:
        scales = (largest * ratio).clamp(min=torch.finfo(torch.float32).tiny)
        q = quantized(rows, scales, None, format_, 0, 0)
        error = (dequantized(q, scales, None, 0, 0) - rows).square().sum(1)
        better = error < least
        best, least = torch.where(better, scales, best), torch.where(better, error, least)
    return torch.where(largest > 0, best, largest)
