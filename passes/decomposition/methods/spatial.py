"""Spatial SVD (Jaderberg et al., 2014): a convolution along the first axis, then one along the others.

k₁×1: in → r, then 1×k₂: r → out        W[o, i, h, w] ≈ Σ_r B[o, r, w] A[r, i, h]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from graphopt.passes.decomposition.evbmf import evbmf_rank
from graphopt.passes.decomposition.factors import Factor, dense
from graphopt.passes.decomposition.methods.base import Approximation, Ranks, blank
from graphopt.passes.decomposition.problem import Problem, Shape
from graphopt.passes.decomposition.spectra import spectrum


class Spatial:
    """The SVD of W as the matrix [out · k₂, in · k₁]; with data B is then fitted to what A gives."""

    name = "spatial"
    extra: str | None = None

    def why_not(self, shape: Shape) -> str | None:
        if shape.kind != "conv" or sum(size > 1 for size in shape.kernel) < 2 or shape.kernel[0] == 1:
            return "spatial SVD splits convolutions with a kernel along two axes or more"
        return "spatial SVD is not done by groups; svd is" if shape.groups > 1 else None

    def full(self, shape: Shape) -> Ranks:
        rows, columns = self._matrix_shape(shape)
        return (min(rows, columns),)

    def layout(self, shape: Shape, ranks: Ranks) -> list[Factor]:
        (rank,), kernel = ranks, shape.kernel
        first = blank(rank, shape.in_, kernel[0], *[1] * (len(kernel) - 1))
        return [
            Factor(first, axes=(0,)),
            Factor(blank(shape.out, rank, 1, *kernel[1:]), axes=tuple(range(1, len(kernel)))),
        ]

    def errors(self, problems: Sequence[Problem], shape: Shape, wanted: Iterable[Ranks]) -> dict[Ranks, float]:
        (problem,) = problems
        if problem.second is not None:
            return {r: problem.error(dense(self.approximate(problem, shape, r).chain)) for r in wanted}
        tails = spectrum(_matrix(problem.weight)).tails()
        whole = float(tails[0]) or 1.0
        return {ranks: float(tails[ranks[0]]) / whole for ranks in wanted}

    def grid(self, problems: Sequence[Problem], shape: Shape, steps: Sequence[Sequence[int]]) -> list[Ranks]:
        return [(rank,) for rank in steps[0]]

    def is_cheap(self, data: bool) -> bool:
        return not data

    def evbmf(self, problem: Problem, shape: Shape) -> Ranks:
        matrix = _matrix(problem.weight)
        return (evbmf_rank(spectrum(matrix).values, *matrix.shape),)

    def approximate(self, problem: Problem, shape: Shape, ranks: Ranks) -> Approximation:
        whitened = _matrix(problem.whitened_channels())
        basis = spectrum(whitened).left(whitened, ranks[0])
        first = (basis.t() @ _matrix(problem.weight)).reshape(ranks[0], shape.in_, shape.kernel[0])
        rest = shape.columns // (shape.in_ * shape.kernel[0])
        second = basis.reshape(shape.out, rest, ranks[0])
        if problem.second is not None:
            second = problem.fitted(_features(first, rest)).reshape(shape.out, rest, ranks[0])
        ones = [1] * (len(shape.kernel) - 1)
        return Approximation(
            [
                Factor(first.reshape(*first.shape, *ones), axes=(0,)),
                Factor(
                    second.transpose(1, 2).reshape(shape.out, ranks[0], 1, *shape.kernel[1:]),
                    axes=tuple(range(1, len(shape.kernel))),
                ),
            ]
        )

    @staticmethod
    def _matrix_shape(shape: Shape) -> tuple[int, int]:
        rest = shape.columns // (shape.in_ * shape.kernel[0])
        return shape.out * rest, shape.in_ * shape.kernel[0]


def _matrix(weight: torch.Tensor) -> torch.Tensor:
    """[out, in, k₁, k₂…] as [out · k₂…, in · k₁]."""
    flat = weight.flatten(3) if weight.dim() > 3 else weight
    return flat.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)


def _features(first: torch.Tensor, rest: int) -> torch.Tensor:
    """What the second convolution reads, as rows over patches: [k₂ · r, k₁ · k₂ · in]."""
    rank, channels, size = first.shape
    found = first.new_zeros(rest, rank, size, rest, channels)
    for position in range(rest):
        found[position, :, :, position] = first.transpose(1, 2)
    return found.reshape(rest * rank, size * rest * channels)
