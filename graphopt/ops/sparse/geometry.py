"""Where a convolution's kernel finds its numbers: direct sparse convolution, without unfolding the image.

The image is padded, and cut into phases by the strides: phase (p, q) holds the pixels (p + s·y, q + s·x). Then output
n = y · width + x reads, for input channel c and kernel place (i, j), the number n places behind address[c, i, j]:
rows of X that overlap. The last places of each line are computed in vain, and cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Geometry:
    """A convolution of images of one size. spatial: size of the images; the rest by spatial dim."""

    batch: int
    channels: int
    spatial: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """The size of what comes out."""
        sizes = zip(self.spatial, self.kernel, self.stride, self.padding, self.dilation)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)

    @property
    def lines(self) -> tuple[int, ...]:
        """The size of a phase of the padded image."""
        return tuple(-(-(n + 2 * p) // s) for n, s, p in zip(self.spatial, self.stride, self.padding))

    @property
    def columns(self) -> int:
        """How many outputs of a channel are computed, those in vain among them."""
        return self.batch * math.prod(self.lines)

    def addresses(self) -> torch.Tensor:
        """[channels · kernel places], in the order of a weight's dims."""
        lines = self.lines
        starts = torch.arange(self.channels).reshape(-1, *[1] * len(lines)) * math.prod(self.stride)
        phase, offset = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        for axis, (k, s, d, line) in enumerate(zip(self.kernel, self.stride, self.dilation, lines)):
            place = (torch.arange(k) * d).reshape(-1, *[1] * (len(lines) - 1 - axis))
            phase, offset = phase * s + place % s, offset * line + place // s
        return ((starts + phase) * self.columns + offset).flatten()

    @property
    def size(self) -> int:
        """How many numbers the padded image has, and what is read behind its end."""
        behind = 0
        for k, s, d, line in zip(self.kernel, self.stride, self.dilation, self.lines):
            behind = behind * line + (k - 1) * d // s
        return self.channels * math.prod(self.stride) * self.columns + behind

    def laid_out(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, …] as the addresses see them: [C, phases, B, lines…], flat."""
        found = images.new_zeros(self.size)
        whole = (self.channels, *self.stride, self.batch, *self.lines)
        target = found[: math.prod(whole)].view(whole)
        n = len(self.spatial)
        if all(s == 1 for s in self.stride):
            inner = target.reshape(self.channels, self.batch, *self.lines)
            _within(inner, self.padding, self.spatial)[:] = images.transpose(0, 1)
            return found
        padded = images.new_zeros(self.batch, self.channels, *(q * s for q, s in zip(self.lines, self.stride)))
        _within(padded, self.padding, self.spatial)[:] = images
        phases = padded.reshape(
            self.batch, self.channels, *(m for q, s in zip(self.lines, self.stride) for m in (q, s))
        )
        order = [1, *range(3, 3 + 2 * n, 2), 0, *range(2, 2 + 2 * n, 2)]
        target.copy_(phases.permute(order))
        return found

    def cut(self, found: torch.Tensor) -> torch.Tensor:
        """[O, columns] → [B, O, …], without what was computed in vain."""
        whole = found.view(found.shape[0], self.batch, *self.lines)
        return _within(whole, [0] * len(self.outputs), self.outputs).transpose(0, 1).contiguous()


def _within(x: torch.Tensor, starts: Sequence[int], sizes: Sequence[int]) -> torch.Tensor:
    """A part of the last dims, as a view."""
    for dim, (start, size) in enumerate(zip(starts, sizes), x.dim() - len(sizes)):
        x = x.narrow(dim, start, size)
    return x


def geometry(
    images: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Geometry:
    """Of images [B, C, …]."""
    batch, channels, *spatial = images.shape
    given = (tuple(numbers) for numbers in (kernel, stride, padding, dilation))
    return Geometry(batch, channels, tuple(spatial), *given)
