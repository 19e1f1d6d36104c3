"""SparseGPT (Frantar and Alistarh, 2023): prune column by column, and let the columns behind make up for the error.

With the Hessian of the layer's squared output error H = X X^T + λ I, and U the upper Cholesky factor of its inverse,
H⁻¹ = U^T U, removing weight w_j of a row costs

    (w_j / U_jj)²,

and the columns to the right take up the least-squares share of it:

    W[:, j:] ← W[:, j:] − (w_j / U_jj) U[j, j:].

U_jj² is [H⁻¹]_jj of the problem in which the columns before j are fixed already, so one factorization serves all
columns. Which weights go is decided once for each block of columns (n:m: for each window) from the weights as they are
by then. Updates inside a block are applied at once, those to later blocks together at its end.

The last columns have little behind them that could make up for them, so a few steps of conjugate gradients follow that
minimize the same error over all weights that stay: from there it only falls, and never ends above that of the zeros
without any compensation.
"""

from __future__ import annotations

import torch

from graphopt.errors import GraphOptError
from graphopt.passes.weight_pruning.patterns import Pattern, masks

BLOCK = 128
"""About how many columns are decided on together."""


def inverse_factor(gram: torch.Tensor, damping: float) -> torch.Tensor:
    """Return U with (X X^T + λ I)⁻¹ = U^T U, in double precision; λ is `damping` times the mean of the diagonal.

    gram: [columns, columns]. A column that only ever reads zeros gets a diagonal of 1: its weight costs nothing else.

    Raises:
        GraphOptError: the matrix is not positive definite in floating point; more damping helps.
    """
    hessian = _damped(gram, damping)
    lower, failed = torch.linalg.cholesky_ex(hessian)
    if failed:
        raise GraphOptError("X X^T is singular: give more calibration data, or more damping")
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if failed:
        raise GraphOptError("X X^T is nearly singular: give more calibration data, or more damping")
    return upper


def _damped(gram: torch.Tensor, damping: float) -> torch.Tensor:
    hessian = gram.double().clone()
    diagonal = hessian.diagonal()
    diagonal += damping * diagonal.mean()
    diagonal[diagonal == 0] = 1.0
    return hessian


def sparsegpt(
    weight: torch.Tensor,
    gram: torch.Tensor,
    *,
    channels: int,
    sparsity: float,
    pattern: Pattern,
    damping: float = 0.01,
    refine: int = 16,
    given: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the compensated weight [rows, columns] and the marks of what stays.

    weight: [rows, columns]. gram: X X^T, [columns, columns]. channels: how many columns stand side by side.
    refine: how many steps of conjugate gradients follow. given: marks of what is still there; the rest is gone already.

    Raises:
        GraphOptError: X X^T cannot be factorized.
    """
    upper = inverse_factor(gram, damping).to(weight.device)
    work = weight.double().clone()
    kept = torch.ones_like(work, dtype=torch.bool) if given is None else given.clone()
    dead = gram.diagonal() == 0
    work[:, dead] = 0
    for start, stop in _blocks(work.shape[1], channels, pattern):
        inner = min(channels, stop - start)
        errors = torch.zeros_like(work[:, start:stop])
        for first, last in _decisions(start, stop, inner, pattern):
            kept[:, first:last] &= _choose(
                work[:, first:last], upper.diagonal()[first:last], kept[:, first:last], inner, sparsity, pattern
            )
            _compensate(work, upper, kept, errors, (start, first, last, stop))
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    found = work * kept
    if refine:
        found = refined(found, weight.double(), _damped(gram, damping), kept, refine)
    return found.to(weight.dtype), kept


def refined(
    start: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor, kept: torch.Tensor, steps: int
) -> torch.Tensor:
    """Minimize (v − w)^T H (v − w) for each row v over what is kept, by conjugate gradients with the diagonal of H.

    A row starts from `start`, or from `weight` with its zeros where that is better.
    """
    plain = weight * kept
    better = _cost(plain - weight, hessian) < _cost(start - weight, hessian)
    found = torch.where(better[:, None], plain, start)
    scale = kept / hessian.diagonal()
    residual = ((weight - found) @ hessian) * kept
    step = scaled = residual * scale
    power = (residual * scaled).sum(1, keepdim=True)
    for _ in range(steps):
        product = (step @ hessian) * kept
        curvature = (step * product).sum(1, keepdim=True)
        length = torch.where(curvature > 0, power / curvature, 0.0)
        found, residual = found + length * step, residual - length * product
        scaled = residual * scale
        before, power = power, (residual * scaled).sum(1, keepdim=True)
        step = scaled + torch.where(before > 0, power / before, 0.0) * step
    return found


def _cost(change: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    return ((change @ hessian) * change).sum(1)


def _compensate(
    work: torch.Tensor, upper: torch.Tensor, kept: torch.Tensor, errors: torch.Tensor, bounds: tuple[int, ...]
) -> None:
    """Zero the columns first:last where they are not kept, and spread each error up to the end of the block."""
    start, first, last, stop = bounds
    for j in range(first, last):
        errors[:, j - start] = torch.where(kept[:, j], 0.0, work[:, j]) / upper[j, j]
        work[:, j:stop] -= errors[:, j - start, None] * upper[j, j:stop]


def _choose(
    work: torch.Tensor,
    diagonal: torch.Tensor,
    kept: torch.Tensor,
    channels: int,
    sparsity: float,
    pattern: Pattern,
) -> torch.Tensor:
    """Mark what stays of some columns, by the error that removing it would cost."""
    scores = (work / diagonal).square()
    blocks = pattern.rows * pattern.columns > 1
    scores = scores.masked_fill(~kept, 0.0 if blocks else -torch.inf)
    channels = min(channels, scores.shape[1])
    return masks([scores[None]], [channels], [sparsity], pattern, "layer")[0][0]


def _blocks(columns: int, channels: int, pattern: Pattern) -> list[tuple[int, int]]:
    """Ranges of columns to decide on together: whole kernel positions, or whole units of one position."""
    if channels <= BLOCK:
        step = BLOCK // channels * channels
        return [(at, min(at + step, columns)) for at in range(0, columns, step)]
    unit = pattern.window or pattern.columns
    step = max(1, BLOCK // unit) * unit
    return [
        (position + at, position + min(at + step, channels))
        for position in range(0, columns, channels)
        for at in range(0, channels, step)
    ]


def _decisions(start: int, stop: int, channels: int, pattern: Pattern) -> list[tuple[int, int]]:
    """The ranges within a block that are decided one after the other: windows of n:m, else the block as a whole."""
    if not pattern.window:
        return [(start, stop)]
    return [
        (position + at, position + min(at + pattern.window, channels))
        for position in range(start, stop, channels)
        for at in range(0, channels, pattern.window)
    ]
