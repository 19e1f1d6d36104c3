"""How the numbers of an activation are spread: exact bounds, and a histogram with bins that no data decides.

The bins are the 65,536 codes of bfloat16: each number falls to the one that it rounds to, so a bin is at most 1/128 of
its number wide, whatever the scale. Of single channels, which are many, fewer bits of the codes are looked at. Counts
are integers, and the bounds of each sample are kept, so that what is known does not depend on how the samples were
split into batches, or in which order they came. Memory does not grow with data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

CODES = 1 << 16
CHANNEL_CODES = 1 << 12
_SMALLEST = 1 / 4096
"""Numbers below this share of the largest are one bin: to any grid that is worth having they are zero."""
_OUTLIER, _RARE, _FEW = 1000.0, 1e-4, 4
"""Numbers a thousand times beyond the others are outliers, if they are one in ten thousand or a few at most."""


@dataclass
class Spread:
    """What was seen of one activation.

    low, high: the least and the greatest number. lows, highs: those of each sample. counts: by code, or by the leading
    bits of it, or None if no histogram is wanted. broken: the number of the first sample that holds a NaN or an
    infinity.
    """

    counts: np.ndarray | None = field(default_factory=lambda: np.zeros(CODES, np.int64))
    low: float = math.inf
    high: float = -math.inf
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    broken: int | None = None

    @property
    def is_empty(self) -> bool:
        """True if no number was seen."""
        return self.low > self.high

    def add(self, sample: torch.Tensor) -> None:
        """Take the numbers of one sample."""
        flat = sample.detach().reshape(-1).float()
        if not flat.numel():
            return
        low, high = (float(x) for x in torch.aminmax(flat))
        if not (math.isfinite(low) and math.isfinite(high)):
            self.broken = len(self.lows) if self.broken is None else self.broken
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.lows.append(low)
        self.highs.append(high)
        if self.counts is not None:
            codes = flat.to(torch.bfloat16).view(torch.int16).cpu().numpy().view(np.uint16)
            self.counts += np.bincount(codes >> self._dropped, minlength=len(self.counts))

    @property
    def _dropped(self) -> int:
        """How many bits of a code are not looked at."""
        return 0 if self.counts is None else (CODES // len(self.counts)).bit_length() - 1

    def mean_bounds(self) -> tuple[float, float]:
        """The means of the samples' bounds; exact sums, so in any order."""
        return math.fsum(self.lows) / len(self.lows), math.fsum(self.highs) / len(self.highs)

    def bins(self) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the bins that are not empty, and how many fell to each."""
        assert self.counts is not None
        codes = np.flatnonzero(self.counts)
        middle = (1 << self._dropped) >> 1
        return _values(codes << self._dropped | middle), self.counts[codes].astype(np.float64)

    def bounds(self) -> tuple[float, float]:
        """The least and the greatest number without outliers."""
        if self.counts is None or self.is_empty:
            return self.low, self.high
        values, counts = self.bins()
        magnitudes = np.abs(values)
        order = np.argsort(magnitudes, kind="stable")
        below = np.cumsum(counts[order])
        usual = np.searchsorted(below, below[-1] - max(_FEW, _RARE * below[-1]))
        reach = magnitudes[order][min(int(usual), len(order) - 1)] * _OUTLIER
        if max(-self.low, self.high) <= reach or reach == 0:
            return self.low, self.high
        kept = values[magnitudes <= reach]
        return float(kept.min()), float(kept.max())

    def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers in ascending order, how many stand for each, and over which width they are spread.

        A bin is spread over four points. Numbers near zero are one point without a width.
        """
        values, counts = self.bins()
        small = np.abs(values) < _SMALLEST * max(map(abs, self.bounds()))
        quarter = np.ldexp(0.25, np.frexp(values[~small])[1] - 8 + self._dropped)
        numbers = (values[~small, None] + np.array([-1.5, -0.5, 0.5, 1.5]) * quarter[:, None]).reshape(-1)
        numbers = np.append(numbers.clip(self.low, self.high), 0.0)
        parts = np.append(np.repeat(counts[~small] / 4, 4), counts[small].sum())
        widths = np.append(np.repeat(quarter, 4), 0.0)
        order = np.argsort(numbers, kind="stable")
        return numbers[order], parts[order], widths[order]


class ChannelSpreads:
    """What was seen of each channel of an activation. axis: of its channels, from the end."""

    def __init__(self, axis: int, size: int, histograms: bool) -> None:
        self.axis = axis
        self.channels = [Spread(np.zeros(CHANNEL_CODES, np.int64) if histograms else None) for _ in range(size)]

    def add(self, sample: torch.Tensor) -> None:
        """Take the numbers of one sample."""
        for spread, channel in zip(self.channels, sample.unbind(self.axis)):
            spread.add(channel)


def merged(spreads: Iterable[Spread]) -> Spread:
    """What is known of several activations that will have one scale."""
    found = list(spreads)
    if len(found) == 1:
        return found[0]
    with_counts = all(s.counts is not None for s in found)
    whole = Spread(
        sum((s.counts for s in found if s.counts is not None), np.zeros(CODES, np.int64)) if with_counts else None
    )
    whole.low, whole.high = min(s.low for s in found), max(s.high for s in found)
    whole.lows = [min(bounds) for bounds in zip(*(s.lows for s in found))]
    whole.highs = [max(bounds) for bounds in zip(*(s.highs for s in found))]
    return whole


def _values(codes: np.ndarray) -> np.ndarray:
    """The numbers that codes of bfloat16 stand for."""
    return (codes.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
