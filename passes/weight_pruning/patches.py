"""What a convolution's outputs read: patches of its input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

from graphopt.ir import Node

LIMIT = 1 << 24
"""The elements of patches that are held at once."""


def patches(node: Node, source: torch.Tensor, kernel: Sequence[int], groups: int) -> Iterator[torch.Tensor]:
    """Yield [groups, positions, kernel · channels / groups] for pieces of the batch.

    source: [batch, channels, …] or [channels, …].
    """
    rank = len(kernel)
    source = source if source.dim() == rank + 2 else source.unsqueeze(0)
    stride, dilation = _each(node.attr("stride"), rank), _each(node.attr("dilation"), rank)
    padded = F.pad(source, _margins(node.attr("padding"), kernel, dilation))
    step = max(1, LIMIT * len(source) // max(1, _elements(padded, kernel, stride)))
    for piece in padded.split(step):
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilation[axis] + 1
            piece = piece.unfold(2 + axis, span, stride[axis])[..., :: dilation[axis]]
        yield _matrices(piece, rank, groups)


def _matrices(windows: torch.Tensor, rank: int, groups: int) -> torch.Tensor:
    """[batch, channels, positions…, kernel…] → [groups, batch · positions, kernel · channels / groups]."""
    batch, channels = windows.shape[:2]
    windows = windows.unflatten(1, (groups, channels // groups))
    positions, kernel = range(3, 3 + rank), range(3 + rank, 3 + 2 * rank)
    ordered = windows.permute(1, 0, *positions, *kernel, 2)
    count = batch
    for size in ordered.shape[2 : 2 + rank]:
        count *= size
    return ordered.reshape(groups, count, -1)


def _elements(padded: torch.Tensor, kernel: Sequence[int], stride: Sequence[int]) -> int:
    count = padded.numel()
    for size, step in zip(kernel, stride):
        count = count * size // step
    return count


def _margins(padding: int | str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The zeros around the input, last axis first, as `F.pad` takes them."""
    margins: list[int] = []
    for axis in reversed(range(len(kernel))):
        if isinstance(padding, str):
            both = dilation[axis] * (kernel[axis] - 1) if padding == "same" else 0
            margins += [both // 2, both - both // 2]
        else:
            margins += [_each(padding, len(kernel))[axis]] * 2
    return margins


def _each(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """One number for each axis."""
    if isinstance(value, int):
        return (value,) * rank
    values = tuple(value)
    return values * rank if len(values) == 1 else values
