"""The singular value decomposition: W ≈ A B of rank r.

    linear, 1×1           in → r → out
    convolution           k×k: in → r, then 1×1: r → out
    transposed            1×1: in → r, then k×k: r → out
    embedding             rows of r numbers, then r → out

Of all approximations of rank r it has the least error in Σ, and that is the tail of the spectrum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from graphopt.passes.decomposition.evbmf import evbmf_rank
from graphopt.passes.decomposition.factors import Factor
from graphopt.passes.decomposition.methods.base import Approximation, Ranks, blank
from graphopt.passes.decomposition.problem import Problem, Shape, as_weight
from graphopt.passes.decomposition.spectra import spectrum, tails


class Svd:
    """W ≈ U_r (U_rᵀ W), with U_r of W L."""

    name = "svd"
    extra: str | None = None

    def why_not(self, shape: Shape) -> str | None:
        return None

    def full(self, shape: Shape) -> Ranks:
        return (min(self._matrix_shape(shape)),)

    def layout(self, shape: Shape, ranks: Ranks) -> list[Factor]:
        (rank,) = ranks
        axes, ones = tuple(range(len(shape.kernel))), [1] * len(shape.kernel)
        if shape.kind == "transposed":
            into, out = blank(rank, shape.in_, *ones), blank(rank, shape.out, *shape.kernel)
            return [Factor(into), Factor(out, axes=axes, transposed=True)]
        return [Factor(blank(rank, shape.in_, *shape.kernel), axes=axes), Factor(blank(shape.out, rank, *ones))]

    def errors(self, problems: Sequence[Problem], shape: Shape, wanted: Iterable[Ranks]) -> dict[Ranks, float]:
        lost = tails(torch.stack([problem.squares for problem in problems]).sum(0))
        whole = float(lost[0]) or 1.0
        return {ranks: float(lost[ranks[0]]) / whole for ranks in wanted}

    def grid(self, problems: Sequence[Problem], shape: Shape, steps: Sequence[Sequence[int]]) -> list[Ranks]:
        return [(rank,) for rank in steps[0]]

    def is_cheap(self, data: bool) -> bool:
        return True

    def evbmf(self, problem: Problem, shape: Shape) -> Ranks:
        matrix = problem.matrix
        return (evbmf_rank(spectrum(matrix).values, *matrix.shape),)

    def approximate(self, problem: Problem, shape: Shape, ranks: Ranks) -> Approximation:
        first, second = truncated(problem, ranks[0])
        axes = tuple(range(len(shape.kernel)))
        ones = [1] * len(shape.kernel)
        if shape.kind == "transposed":  # the rows are outputs at positions of the kernel, as [out · kernel]
            spread = second.t().reshape(ranks[0], -1, *shape.kernel)
            return Approximation(
                [Factor(first.reshape(*first.shape, *ones)), Factor(spread, axes=axes, transposed=True)]
            )
        made = Factor(as_weight(first, shape.in_, shape.kernel), axes=axes)
        return Approximation([made, Factor(second.reshape(*second.shape, *ones))])

    @staticmethod
    def _matrix_shape(shape: Shape) -> tuple[int, int]:
        if shape.kind == "transposed":
            return shape.out * (shape.columns // shape.in_), shape.in_
        return shape.out, shape.columns


def truncated(problem: Problem, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors of the problem's matrix: [r, columns], then [rows, r]."""
    whitened = problem.whitened()
    basis = spectrum(whitened).left(whitened, rank)
    return basis.t() @ problem.matrix, basis
