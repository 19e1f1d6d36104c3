"""GPTQ (Frantar et al., 2022): round weights one column after the other, and let those behind make up for the error.

With the Hessian of a layer's squared output error, H = X Xᵀ + λ I, and U the upper Cholesky factor of its inverse,

    e = (w_j − Q(w_j)) / U_jj        W[:, j:] ← W[:, j:] − e U[j, j:]

as in SparseGPT, whose factor this is. Columns with the largest inputs go first, while there is most behind them to make
up. Then each weight is looked at again, and moved by a step where that lowers the error, until none is.
"""

from __future__ import annotations

import torch

from graphopt.ops.quantization import Format
from graphopt.passes.weight_pruning.sparsegpt import BLOCK, inverse_factor

_SWEEPS = 2
Bounds = tuple[torch.Tensor, torch.Tensor]
"""The least and greatest integers, counted from the zero point."""


def gptq(
    weight: torch.Tensor,
    gram: torch.Tensor,
    scales: torch.Tensor,
    format_: Format,
    zeros: torch.Tensor | None = None,
    damping: float = 0.01,
) -> torch.Tensor:
    """Return integers [rows, columns].

    weight: [rows, columns]. gram: X Xᵀ, [columns, columns]. scales, zeros: that broadcast to the weight.

    Raises:
        GraphOptError: X Xᵀ cannot be factorized.
    """
    order = gram.diagonal().argsort(descending=True, stable=True)
    inverse = order.argsort()
    gram = gram[order][:, order].double()
    original = weight.double()[:, order]
    steps = scales.double().expand_as(weight)[:, order]
    zero = torch.zeros_like(steps) if zeros is None else zeros.double().expand_as(weight)[:, order]
    bounds = format_.low - zero, format_.high - zero
    found = _rounded(original, inverse_factor(gram, damping), steps, bounds)
    return (_improved(found, original, gram, steps, bounds) + zero)[:, inverse]


def _nearest(numbers: torch.Tensor, bounds: Bounds, column: int | slice = slice(None)) -> torch.Tensor:
    return torch.minimum(torch.maximum(numbers.round(), bounds[0][:, column]), bounds[1][:, column])


def _rounded(original: torch.Tensor, upper: torch.Tensor, steps: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    work, found = original.clone(), torch.empty_like(original)
    columns = work.shape[1]
    for start in range(0, columns, BLOCK):
        stop = min(start + BLOCK, columns)
        errors = torch.zeros_like(work[:, start:stop])
        for j in range(start, stop):
            found[:, j] = _nearest(work[:, j] / steps[:, j], bounds, j)
            errors[:, j - start] = (work[:, j] - found[:, j] * steps[:, j]) / upper[j, j]
            work[:, j:stop] -= errors[:, j - start, None] * upper[j, j:stop]
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    return found


def _improved(
    found: torch.Tensor, original: torch.Tensor, gram: torch.Tensor, steps: torch.Tensor, bounds: Bounds
) -> torch.Tensor:
    """Coordinate descent on (q s − w)ᵀ X Xᵀ (q s − w) of each row: a column's best number given all others."""
    nearest = _nearest(original / steps, bounds)
    better = _cost(nearest * steps - original, gram) < _cost(found * steps - original, gram)
    found = torch.where(better[:, None], nearest, found)
    slope = (found * steps - original) @ gram
    diagonal = gram.diagonal()
    for _ in range(_SWEEPS):
        moved = False
        for j in range(found.shape[1]):
            if diagonal[j] <= 0:
                continue
            best = _nearest(found[:, j] - slope[:, j] / (diagonal[j] * steps[:, j]), bounds, j)
            change = (best - found[:, j]) * steps[:, j]
            if bool((change != 0).any()):
                moved = True
                found[:, j] = best
                slope += change[:, None] * gram[j]
        if not moved:
            break
    return found


def _cost(error: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    return ((error @ gram) * error).sum(1)
