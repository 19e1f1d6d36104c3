"""Arithmetic on weights in double precision, a block of rows at a time: the wide copy of a weight is never built."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphopt.ir.storage import empty_tensor

BLOCK = 1 << 18
"""Elements in a block: 2 MiB in double precision, which stays in the cache."""


def scaled(weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor | None:
    """Return `weight · factors`, computed in double precision and rounded once to the weight's dtype.

    factors: float64, broadcastable to the weight. Returns None if an element of the result is not finite.
    """
    result = empty_tensor(weight.shape, weight.dtype) if weight.device.type == "cpu" else torch.empty_like(weight)
    finite = True
    for rows, product in _products(weight, factors):
        block = result[rows]
        block.copy_(product)
        finite = finite and bool(block.isfinite().all())
    return result if finite else None


def row_sums(weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return, for each row, the sum of `weight · factors` in double precision."""
    sums = torch.empty(weight.shape[0], dtype=torch.float64, device=weight.device)
    for rows, product in _products(weight, factors):
        sums[rows] = product.flatten(1).sum(1)
    return sums


def _products(weight: torch.Tensor, factors: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """The rows of a block and their product, in a buffer that the next block overwrites."""
    count = weight.shape[0]
    step = max(1, BLOCK // max(weight[:1].numel(), 1))
    buffer = torch.empty((min(step, count), *weight.shape[1:]), dtype=torch.float64, device=weight.device)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        product = buffer[: rows.stop - rows.start]
        torch.mul(weight[rows], factors[rows] if factors.shape[0] > 1 else factors, out=product)
        yield rows, product
