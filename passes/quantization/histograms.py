"""Histograms to look at: what was seen of an activation, in few bins of one width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.passes.quantization.spread import Spread

BINS = 48


@dataclass(frozen=True)
class Histogram:
    """counts: of numbers in bins of one width from `low` to `high`; outliers fall to the outermost."""

    low: float
    high: float
    counts: tuple[int, ...]


def histogram(spread: Spread, covered: tuple[float, float]) -> Histogram | None:
    """Return the histogram of what was seen, over that and what is covered; None if it was not kept."""
    if spread.counts is None or spread.is_empty:
        return None
    low, high = spread.bounds()
    low, high = min(low, covered[0]), max(high, covered[1])
    values, counts = spread.bins()
    places = np.floor((values - low) / (high - low) * BINS) if high > low else np.zeros(len(values))
    found = np.bincount(places.clip(0, BINS - 1).astype(np.int64), counts, BINS)
    return Histogram(float(low), float(high), tuple(int(count) for count in found))
