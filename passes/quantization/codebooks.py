"""Codebooks: k numbers, or vectors, for many, with the least weighted squared error.

    min over C of Σᵢ hᵢ · min over c in C of (xᵢ − c)²

Of numbers the optimum is found exactly: sorted, each code stands for a run of neighbours, and the best k runs follow
from the best k − 1 by dynamic programming, as in Ckmeans.1d.dp. With s₀ and s₁ the sums of h and h·x over a run, a run
lowers the error by s₁² / s₀. Where a run starts grows with where it ends, so all ends are found by divide and conquer,
in O(k n log n), for all rows of a batch side by side. There is no start to choose, so two runs agree, and no local
optimum; neither scikit-learn's `KMeans` nor SciPy's `kmeans2` gives that, and what does, `kmeans1d`, knows no weights.
Many numbers are gathered in bins first.

Of vectors (d = 2 or more) there is no such order: Lloyd's iterations, from a grid of the numbers' own codebook.
"""

from __future__ import annotations

import numpy as np
import torch

POINTS, POINTS_FOR_CODE = 1024, 8
"""More numbers than this, and than so many a code, are gathered in bins: half of equal width, half of equal counts."""
ITERATIONS, MOVING, FEWER, SAMPLE = 30, 10, 5, 1 << 15
"""Lloyd's iterations, those of them that move codes, those from a good start; the most vectors that they look at."""
_CELLS = 1 << 22
_PIECE = 1 << 13


def codebook(x: torch.Tensor, importance: torch.Tensor, codes: int) -> torch.Tensor:
    """Return the codes of each row in ascending order, [rows, codes] in double precision.

    x, importance: [rows, n]; the importance is above 0. A row of fewer distinct numbers repeats its greatest code.

    >>> x = torch.tensor([[0.0, 0.1, 5.0, 9.0, 9.2, 9.1]])
    >>> codebook(x, torch.ones_like(x), 3)
    tensor([[0.0500, 5.0000, 9.1000]], dtype=torch.float64)
    """
    numbers, weights = _points(x.double(), importance.double(), max(POINTS, POINTS_FOR_CODE * codes))
    found = np.empty((len(numbers), codes))
    step = max(1, _CELLS // (numbers.shape[1] * codes))
    for start in range(0, len(numbers), step):
        rows = slice(start, start + step)
        found[rows] = _means(numbers[rows], weights[rows], codes)
    return torch.from_numpy(found)


def vector_codebook(
    x: torch.Tensor, importance: torch.Tensor, codes: int, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Return codes [codes, d] for vectors x [n, d] with an importance [n], in double precision.

    start: codes to begin with, which are good already.
    """
    step = -(-len(x) // SAMPLE)
    x, importance = x[::step].double(), importance[::step].double()
    if start is not None:
        return _improved(start.double(), x, importance, FEWER, 0)
    return _improved(_grid(x, importance, codes), x, importance, ITERATIONS, MOVING)


def _grid(x: torch.Tensor, importance: torch.Tensor, codes: int) -> torch.Tensor:
    """The numbers' own codes in every combination, and for what is left the vectors that these serve worst."""
    size = x.shape[1]
    side = int(codes ** (1 / size) + 1e-9)
    own = codebook(x.reshape(1, -1), importance.repeat_interleave(size)[None], side)[0]
    found = torch.cartesian_prod(*[own] * size).reshape(-1, size)
    if len(found) < codes:
        errors = (found[nearest(x, found)] - x).square().sum(1) * importance
        found = torch.cat([found, x[errors.argsort(descending=True, stable=True)[: codes - len(found)]]])
    return found


def _improved(
    found: torch.Tensor, x: torch.Tensor, importance: torch.Tensor, iterations: int, moving: int
) -> torch.Tensor:
    """Lloyd's iterations; in the first so many, codes of little use are moved."""
    for iteration in range(iterations):
        index = nearest(x, found)
        weights = torch.zeros(len(found), dtype=x.dtype).index_add_(0, index, importance)
        sums = torch.zeros_like(found).index_add_(0, index, x * importance[:, None])
        found = torch.where(weights[:, None] > 0, sums / weights[:, None].clamp(min=1e-300), found)
        if iteration < moving:
            found = _moved(found, x, importance, index)
    return found


def _moved(codes: torch.Tensor, x: torch.Tensor, importance: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take the codes that account for the least error to those that account for the most, one to each side of it."""
    errors = (codes[index] - x).square() * importance[:, None]
    spread = torch.zeros_like(codes).index_add_(0, index, errors)
    order = spread.sum(1).argsort(stable=True)
    count = -(-len(codes) // 16)
    idle, busy = order[:count], order[-count:]
    weights = torch.zeros(len(codes), dtype=x.dtype).index_add_(0, index, importance)
    step = (spread[busy] / weights[busy, None].clamp(min=1e-300)).sqrt() / 2
    moved = codes.clone()
    moved[idle], moved[busy] = codes[busy] + step, codes[busy] - step
    return moved


def nearest(x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest code for each vector. x: [n, d]. codes: [k, d]."""
    table = codes.float().numpy()
    halves = np.square(table).sum(1) / 2
    pieces = [piece.float().numpy() for piece in x.split(_PIECE)]  # NumPy finds the greatest of a row much faster
    return torch.from_numpy(np.concatenate([(piece @ table.T - halves).argmax(1) for piece in pieces]))


def nearest_numbers(x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the index of the nearest code for each number. x: [rows, n]. codes: [rows, k], ascending."""
    middles = (codes[:, 1:] + codes[:, :-1]) / 2
    return torch.searchsorted(middles.contiguous(), x.to(codes.dtype).contiguous())


def _points(x: torch.Tensor, importance: torch.Tensor, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in ascending order and their weights, [rows, points]; the numbers as means of the bins."""
    ordered, order = x.sort(1)
    weights = importance.gather(1, order)
    if x.shape[1] <= most:
        return ordered.numpy(), weights.numpy()
    even = torch.linspace(0, 1, most // 2 + 1, dtype=x.dtype)[1:-1]
    low, high = ordered[:, :1], ordered[:, -1:]
    quantiles = ordered[:, (even * (x.shape[1] - 1)).long()]
    edges = torch.cat([low + (high - low) * even, quantiles], 1).sort(1)[0]
    index = torch.searchsorted(edges, ordered)
    sums = torch.zeros(len(x), edges.shape[1] + 1, dtype=x.dtype)
    found = sums.scatter_add(1, index, weights)
    means = sums.scatter_add(1, index, weights * ordered) / found.clamp(min=1e-300)
    # A bin without numbers weighs nothing, wherever it stands.
    return torch.where(found > 0, means, high).numpy(), found.numpy()


def _means(numbers: np.ndarray, weights: np.ndarray, codes: int) -> np.ndarray:
    """The mean of each run of the best partition; a run without numbers has that of a neighbour."""
    zero = np.zeros((len(numbers), 1))
    center = (numbers * weights).sum(1, keepdims=True) / weights.sum(1, keepdims=True)
    mass = np.concatenate([zero, weights.cumsum(1)], 1)
    moment = np.concatenate([zero, ((numbers - center) * weights).cumsum(1)], 1)
    ends = _partition(mass, moment, codes)
    parts = np.diff(np.take_along_axis(mass, ends, 1), axis=1)
    sums = np.diff(np.take_along_axis(moment, ends, 1), axis=1)
    means = np.divide(sums, parts, out=np.full_like(sums, -np.inf), where=parts > 0)
    first = np.where(parts > 0, means, np.inf).min(1, keepdims=True)
    return np.maximum(np.maximum.accumulate(means, 1), first) + center


def _partition(mass: np.ndarray, moment: np.ndarray, codes: int) -> np.ndarray:
    """The ends of the best runs, [rows, codes + 1]. mass, moment: sums up to each point, [rows, points + 1]."""
    rows, points = mass.shape
    table = _Table(mass.reshape(-1), moment.reshape(-1), rows, points)
    gains = table.gain(table.first.repeat(points, 1), table.first + np.arange(points))
    starts = np.zeros((codes, rows, points), np.int32)
    for count in range(1, codes):
        gains = _extended(table, gains, starts[count])
    ends = np.zeros((rows, codes + 1), np.int64)
    ends[:, codes] = points - 1
    for count in range(codes - 1, 0, -1):
        ends[:, count] = starts[count][np.arange(rows), ends[:, count + 1]]
    return ends


def _extended(table: _Table, gains: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The gains with one run more, for each end; where that run starts goes to `starts`."""
    last = table.points - 1
    found = np.zeros_like(gains)
    zeros = np.zeros((table.rows, 1), np.int64)
    table.solve(gains, np.array([last]), zeros, zeros + last, found, starts)
    stride = 1 << max(last, 1).bit_length()
    while stride > 1:
        half = stride // 2
        ends = np.arange(half, last, stride)
        if len(ends):
            low = starts[:, ends - half].astype(np.int64)
            high = np.minimum(starts[:, np.minimum(ends + half, last)], ends).astype(np.int64)
            table.solve(gains, ends, low, np.maximum(low, high), found, starts)
        stride = half
    return found


class _Table:
    """The sums of all rows one after the other, and the search for the best starts of runs."""

    def __init__(self, mass: np.ndarray, moment: np.ndarray, rows: int, points: int) -> None:
        self.mass, self.moment, self.rows, self.points = mass, moment, rows, points
        self.first = (np.arange(rows) * points)[:, None]

    def gain(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """s₁² / s₀ of runs, given by places in the table."""
        mass, moment = self.mass[end] - self.mass[start], self.moment[end] - self.moment[start]
        return np.divide(moment * moment, mass, out=np.zeros_like(moment), where=mass > 0)

    def solve(
        self,
        gains: np.ndarray,
        ends: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
        found: np.ndarray,
        starts: np.ndarray,
    ) -> None:
        """For each end, the best start from `low` to `high` ([rows, ends]), written to `found` and `starts`."""
        sizes = (high - low + 1).reshape(-1)
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        tried = np.arange(sizes.sum()) - np.repeat(offsets - (low + self.first).reshape(-1), sizes)
        at = np.repeat((self.first + ends).reshape(-1), sizes)
        values = gains.reshape(-1)[tried] + self.gain(tried, at)
        best = np.maximum.reduceat(values, offsets)
        hits = np.flatnonzero(values == np.repeat(best, sizes))
        owners = np.searchsorted(offsets, hits, side="right") - 1
        chosen = np.empty(len(sizes), np.int64)
        chosen[owners[::-1]] = tried[hits[::-1]]  # the first of several
        found[:, ends] = best.reshape(low.shape)
        starts[:, ends] = chosen.reshape(low.shape) - self.first
