"""Tucker-2 (Kim et al., 2016): the channels of a convolution are projected before it, and spread after it.

    1×1: in → r₁, then k×k: r₁ → r₂, then 1×1: r₂ → out        W ≈ C ×_out V ×_in Uᵀ

The bases are the leading ones of the unfoldings, improved in turn (HOOI). For all ranks at once the error of the
leading ones is what the core of full size has outside of its leading block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from graphopt.passes.decomposition.evbmf import evbmf_rank
from graphopt.passes.decomposition.factors import Factor, dense, parameters
from graphopt.passes.decomposition.methods.base import Approximation, Ranks, blank
from graphopt.passes.decomposition.problem import Problem, Shape, as_matrix
from graphopt.passes.decomposition.spectra import mode_product, spectrum, unfolding

SWEEPS = 3
"""Of improving the bases in turn."""


class Tucker:
    """Ranks are those of the input channels and of the output channels."""

    name = "tucker"
    extra: str | None = None

    def why_not(self, shape: Shape) -> str | None:
        if shape.kind != "conv" or all(size == 1 for size in shape.kernel):
            return "tucker splits convolutions with a kernel; of a matrix it is the SVD"
        return "tucker is not done by groups; svd is" if shape.groups > 1 else None

    def full(self, shape: Shape) -> Ranks:
        return shape.in_, shape.out

    def layout(self, shape: Shape, ranks: Ranks) -> list[Factor]:
        first, second = ranks
        axes, ones = tuple(range(len(shape.kernel))), [1] * len(shape.kernel)
        core = Factor(blank(second, first, *shape.kernel), axes=axes)
        return [Factor(blank(first, shape.in_, *ones)), core, Factor(blank(shape.out, second, *ones))]

    def errors(self, problems: Sequence[Problem], shape: Shape, wanted: Iterable[Ranks]) -> dict[Ranks, float]:
        (problem,) = problems
        if problem.second is not None:
            return {r: problem.error(dense(self.approximate(problem, shape, r).chain)) for r in wanted}
        kept = _kept(problem.weight)
        whole = float(kept[-1, -1]) or 1.0
        return {r: max(1 - float(kept[r[1] - 1, r[0] - 1]) / whole, 0.0) for r in wanted}

    def grid(self, problems: Sequence[Problem], shape: Shape, steps: Sequence[Sequence[int]]) -> list[Ranks]:
        """All pairs that no other beats in both error (of leading bases) and weights."""
        kept = _kept(problems[0].whitened_channels())
        whole = float(kept[-1, -1]) or 1.0
        pairs = [(a, b) for a in steps[0] for b in steps[1]]
        cost = {pair: parameters(self.layout(shape, pair)) for pair in pairs}
        best = -1.0
        found: list[Ranks] = []
        for pair in sorted(pairs, key=cost.__getitem__):
            energy = float(kept[pair[1] - 1, pair[0] - 1]) / whole
            if energy > best + 1e-9:
                best = energy
                found.append(pair)
        return found

    def is_cheap(self, data: bool) -> bool:
        return not data

    def evbmf(self, problem: Problem, shape: Shape) -> Ranks:
        found = []
        for mode in (1, 0):
            matrix = unfolding(problem.weight, mode)
            found.append(evbmf_rank(spectrum(matrix).values, *matrix.shape))
        return found[0], found[1]

    def approximate(self, problem: Problem, shape: Shape, ranks: Ranks) -> Approximation:
        whitened = problem.whitened_channels()
        into = _leading(whitened, 1, ranks[0])
        out = _leading(mode_product(whitened, into.t(), 1), 0, ranks[1])
        for _ in range(SWEEPS):
            into = _leading(mode_product(whitened, out.t(), 0), 1, ranks[0])
            out = _leading(mode_product(whitened, into.t(), 1), 0, ranks[1])
        core = mode_product(mode_product(whitened, into.t(), 1), out.t(), 0)
        ones = [1] * len(shape.kernel)
        first = problem.unwhiten(into.t().contiguous())
        start = [
            Factor(first.reshape(*first.shape, *ones)),
            Factor(core, axes=tuple(range(len(shape.kernel)))),
        ]
        if problem.second is not None:
            out = problem.fitted(as_matrix(dense(start)))
        return Approximation([*start, Factor(out.reshape(*out.shape, *ones))])


def _leading(tensor: torch.Tensor, mode: int, rank: int) -> torch.Tensor:
    """The leading basis of an unfolding, [size, rank]; completed where the unfolding has fewer columns than that."""
    matrix = unfolding(tensor, mode)
    _, vectors = torch.linalg.eigh(matrix @ matrix.t())
    return vectors.flip(1)[:, :rank]


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    """The energy of the leading block of the core, [out rank − 1, in rank − 1]."""
    out, into = (_leading(tensor, mode, tensor.shape[mode]) for mode in (0, 1))
    core = mode_product(mode_product(tensor, into.t(), 1), out.t(), 0)
    return core.square().flatten(2).sum(2).cumsum(0).cumsum(1)
