"""Scales and zero points of matrices for blocks of neighbours along the inputs."""

from __future__ import annotations

import torch

from graphopt.ops.quantization import Format

_HALF_PRECISION = 2.0**-10
_RATIOS = torch.linspace(0.5, 1.0, 51)


def block_parameters(
    matrix: torch.Tensor, format_: Format, block_size: int, search: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return scales and zero points, [ceil(K / block_size), N] of a matrix [K, N]; without blocks [N].

    A signed format has no zero points: None. search: shrink each range to the least squared error. The last block may
    be shorter.
    """
    inputs, outputs = matrix.shape
    size = block_size or inputs
    padded = torch.nn.functional.pad(matrix.float(), (0, 0, 0, -inputs % size))
    blocks = padded.reshape(-1, size, outputs).transpose(1, 2).reshape(-1, size)
    scales, zeros = _best(blocks, format_) if search else _covering(blocks, format_, torch.ones(()))
    shape = (-1, outputs) if block_size else (outputs,)
    return scales.reshape(shape).contiguous(), None if format_.low < 0 else zeros.reshape(shape).contiguous()


def in_half_precision(scales: torch.Tensor) -> torch.Tensor | None:
    """The scales in half precision, or None where it has not their range."""
    halves = scales.half()
    return halves if bool(((halves.float() - scales).abs() <= _HALF_PRECISION * scales).all()) else None


def _covering(blocks: torch.Tensor, format_: Format, ratio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point with which each row's range, times `ratio`, is covered."""
    low, high = blocks.amin(1).clamp(max=0) * ratio, blocks.amax(1).clamp(min=0) * ratio
    if format_.low < 0:
        scales = torch.maximum(-low, high) / format_.high
        return torch.where(scales > 0, scales, 1.0), torch.zeros_like(scales)
    scales = (high - low) / format_.high
    scales = torch.where(scales > 0, scales, 1.0)
    return scales, (-low / scales).round().clamp(format_.low, format_.high)


def _best(blocks: torch.Tensor, format_: Format) -> tuple[torch.Tensor, torch.Tensor]:
    best = _covering(blocks, format_, torch.ones(()))
    least = _error(blocks, *best, format_)
    for ratio in _RATIOS[:-1]:
        tried = _covering(blocks, format_, ratio)
        error = _error(blocks, *tried, format_)
        better = error < least
        best = torch.where(better, tried[0], best[0]), torch.where(better, tried[1], best[1])
        least = torch.where(better, error, least)
    return best


def _error(blocks: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor, format_: Format) -> torch.Tensor:
    steps = (blocks / scales[:, None]).round_().add_(zeros[:, None]).clamp_(format_.low, format_.high)
    return steps.sub_(zeros[:, None]).mul_(scales[:, None]).sub_(blocks).square_().sum(1)
