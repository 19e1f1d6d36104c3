"""Where to clip an activation: the range [low, high] that a quantized format covers, chosen from what was seen.

minmax       all that was seen
mean         the mean over the samples of each one's least and greatest number
percentile   all but a share of (100 − p) % of the numbers
mse          the range with the least Σ |D(Q(x)) − x|^power
entropy      the range with the least Kullback-Leibler divergence of the quantized from the original distribution
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphopt.errors import unknown_name
from graphopt.ops.quantization import Format
from graphopt.passes.quantization.spread import Spread

Range = tuple[float, float]

_RATIOS = np.linspace(0.2, 1.0, 81)


@dataclass(frozen=True)
class Grid:
    """What a range is quantized to. symmetric: the range is made to reach as far down as up."""

    format_: Format
    symmetric: bool

    def rounded(self, numbers: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
        """The step that each number falls to, and what the step stands for."""
        scale, zero = affine(low, high, self.format_, self.symmetric)
        steps = np.clip(np.rint(numbers / scale) + zero, self.format_.low, self.format_.high)
        return steps, (steps - zero) * scale


def affine(low: float, high: float, format_: Format, symmetric: bool) -> tuple[float, int]:
    """Return the scale and the zero point under which an integer format covers [low, high] and 0.

    >>> from graphopt.ops.quantization import find_format
    >>> affine(-1.0, 2.984375, find_format("uint8"), symmetric=False)
    (0.015625, 64)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric or format_.is_float:
        scale = max(-low, high) / format_.high
        return float(np.float32(scale)) or 1.0, int((format_.low + format_.high + 1) // 2) if format_.low == 0 else 0
    scale = float(np.float32((high - low) / (format_.high - format_.low))) or 1.0
    return scale, int(np.clip(np.rint(format_.low - low / scale), format_.low, format_.high))


def choose_range(spread: Spread, method: str, grid: Grid, percentile: float, power: float) -> Range:
    """Return the range by a method.

    Raises:
        UnknownNameError: no such method.
    """
    if method not in METHODS:
        raise unknown_name("calibration method", method, METHODS)
    if spread.low == spread.high:
        return spread.low, spread.high
    return METHODS[method](spread, grid, percentile, power)


def outliers(spread: Spread) -> bool:
    """True if the bounds are some few numbers far beyond all others."""
    return spread.bounds() != (spread.low, spread.high)


def _minmax(spread: Spread, grid: Grid, percentile: float, power: float) -> Range:
    return spread.low, spread.high


def _mean(spread: Spread, grid: Grid, percentile: float, power: float) -> Range:
    return spread.mean_bounds()


def _percentile(spread: Spread, grid: Grid, percentile: float, power: float) -> Range:
    numbers, counts, _ = spread.points()
    return _quantile(numbers, counts, 1 - percentile / 100), _quantile(numbers, counts, percentile / 100)


def _quantile(numbers: np.ndarray, counts: np.ndarray, share: float) -> float:
    total = np.cumsum(counts)
    return float(numbers[min(int(np.searchsorted(total, share * total[-1])), len(numbers) - 1)])


def _mse(spread: Spread, grid: Grid, percentile: float, power: float) -> Range:
    return _lp(spread, grid, percentile, 2.0)


def _lp(spread: Spread, grid: Grid, percentile: float, power: float) -> Range:
    numbers, counts, _ = spread.points()

    def loss(low: float, high: float) -> float:
        difference = np.abs(grid.rounded(numbers, low, high)[1] - numbers)
        return float(counts @ difference**power)

    return _search(spread, grid, loss)


def _entropy(spread: Spread, grid: Grid, percentile: float, power: float) -> Range:
    """Zeros are exact in any range, so they are left out."""
    numbers, counts, widths = spread.points()
    numbers, counts, widths = (x[widths > 0] for x in (numbers, counts, widths))
    share = counts / max(counts.sum(), 1.0)

    def divergence(low: float, high: float) -> float:
        inside = (numbers >= min(low, 0.0)) & (numbers <= max(high, 0.0))
        if not inside.any():
            return np.inf
        steps = grid.rounded(numbers, low, high)[0].astype(np.int64)
        steps -= steps.min()
        kept = np.where(inside, share, 0.0)
        mass, room = (np.bincount(steps, x) for x in (kept, np.where(inside, widths, 0.0)))
        quantized = np.divide(mass[steps] * widths, room[steps], out=np.zeros_like(share), where=room[steps] > 0)
        # The original gives what is clipped to the last number inside; the quantized one has nothing there.
        original = kept + _at_ends(inside, share)
        used = inside & (original > 0)
        return float(np.sum(original[used] * np.log(original[used] / np.maximum(quantized[used], 1e-12))))

    return _search(spread, grid, divergence)


def _at_ends(inside: np.ndarray, share: np.ndarray) -> np.ndarray:
    """What lies beyond the range, on the outermost numbers within it."""
    first, last = np.flatnonzero(inside)[[0, -1]]
    added = np.zeros(len(share))
    added[first] += share[:first].sum()
    added[last] += share[last + 1 :].sum()
    return added


def _search(spread: Spread, grid: Grid, loss: Callable[[float, float], float]) -> Range:
    """The best range among those whose ends are shares of the whole: one end after the other, twice."""
    low, high = (min(end, 0.0) if i == 0 else max(end, 0.0) for i, end in enumerate(spread.bounds()))
    if grid.symmetric:
        reach = max(-low, high)
        best = min(_RATIOS, key=lambda ratio: loss(-reach * ratio, reach * ratio))
        return -reach * float(best), reach * float(best)
    ends = low, high
    for _ in range(2 if low < 0 < high else 1):
        if high > 0:
            ends = ends[0], high * float(min(_RATIOS, key=lambda ratio: loss(ends[0], high * ratio)))
        if low < 0:
            ends = low * float(min(_RATIOS, key=lambda ratio: loss(low * ratio, ends[1]))), ends[1]
    return ends


METHODS: dict[str, Callable[[Spread, Grid, float, float], Range]] = {
    "minmax": _minmax,
    "mean": _mean,
    "percentile": _percentile,
    "mse": _mse,
    "lp": _lp,
    "entropy": _entropy,
}
NEED_BOUNDS_ALONE = ("minmax", "mean")
"""Methods that need no histogram."""
