"""The tensor train of a convolution (Oseledets, 2011): its axes are split off one after the other.

    1×1: in → r₁, then k₁×1: r₁ → r₂, then 1×k₂: r₂ → r₃, then 1×1: r₃ → out

    W[o, i, h, w] ≈ Σ G₁[i, a] G₂[a, h, b] G₃[b, w, c] G₄[c, o]

Each split is a truncated SVD of what is left, so squared errors add up. Ranks come from a bound ε of the relative
error: δ = ε ‖W‖ / √(d − 1) for each of the d − 1 splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from graphopt.passes.decomposition.evbmf import evbmf_rank
from graphopt.passes.decomposition.factors import Factor, dense
from graphopt.passes.decomposition.methods.base import Approximation, Ranks, blank
from graphopt.passes.decomposition.problem import Problem, Shape, as_matrix
from graphopt.passes.decomposition.spectra import Spectrum, spectrum

BOUNDS = tuple(float(x) for x in np.geomspace(0.03, 0.9, 12))
"""The bounds ε that the ranks worth a look come from."""

Pick = Callable[[Spectrum, int], int]
"""From the spectrum of a split and its number to a rank."""


def long_axes(shape: Shape) -> list[tuple[int, ...]]:
    """The spatial axes with a kernel, each alone; those without go along with the first."""
    long = [axis for axis, size in enumerate(shape.kernel) if size > 1]
    flat = tuple(axis for axis, size in enumerate(shape.kernel) if size == 1)
    return [(axis, *(flat if index == 0 else ())) for index, axis in enumerate(long)]


def along(axis: int, shape: Shape) -> list[int]:
    """The kernel with all other axes of size 1."""
    return [size if index == axis else 1 for index, size in enumerate(shape.kernel)]


class TensorTrain:
    """Ranks are those between the cores."""

    name = "tensor-train"
    extra: str | None = None

    def why_not(self, shape: Shape) -> str | None:
        if shape.kind != "conv" or all(size == 1 for size in shape.kernel):
            return "a tensor train splits convolutions with a kernel; of a matrix it is the SVD"
        return "a tensor train is not made by groups; svd is" if shape.groups > 1 else None

    def full(self, shape: Shape) -> Ranks:
        sizes = _sizes(shape)
        left = [int(np.prod(sizes[: n + 1])) for n in range(len(sizes) - 1)]
        right = [int(np.prod(sizes[n + 1 :])) for n in range(len(sizes) - 1)]
        return tuple(map(min, left, right))

    def layout(self, shape: Shape, ranks: Ranks) -> list[Factor]:
        ones = [1] * len(shape.kernel)
        found = [Factor(blank(ranks[0], shape.in_, *ones))]
        for axes, before, after in zip(long_axes(shape), ranks, ranks[1:]):
            found.append(Factor(blank(after, before, *along(axes[0], shape)), axes=axes))
        return [*found, Factor(blank(shape.out, ranks[-1], *ones))]

    def errors(self, problems: Sequence[Problem], shape: Shape, wanted: Iterable[Ranks]) -> dict[Ranks, float]:
        (problem,) = problems
        return {ranks: problem.error(dense(self.approximate(problem, shape, ranks).chain)) for ranks in wanted}

    def grid(self, problems: Sequence[Problem], shape: Shape, steps: Sequence[Sequence[int]]) -> list[Ranks]:
        (problem,) = problems
        tensor = _train_order(problem.whitened_channels(), shape)
        whole = float(tensor.square().sum())
        found: dict[Ranks, None] = {}
        for bound in BOUNDS:
            allowed = bound**2 * whole / (tensor.dim() - 1)

            def pick(split: Spectrum, number: int, allowed: float = allowed) -> int:
                least = max(int((split.tails() > allowed).sum()), 1)
                return next((step for step in steps[number] if step >= least), len(split.squares))

            found[split_train(tensor, pick)[1]] = None
        return list(found)

    def is_cheap(self, data: bool) -> bool:
        return False

    def evbmf(self, problem: Problem, shape: Shape) -> Ranks:
        tensor = _train_order(problem.weight, shape)

        def pick(split: Spectrum, number: int) -> int:
            return max(evbmf_rank(split.values, *split.shape), 1)

        return split_train(tensor, pick)[1]

    def approximate(self, problem: Problem, shape: Shape, ranks: Ranks) -> Approximation:
        tensor = _train_order(problem.whitened_channels(), shape)
        cores, _ = split_train(tensor, lambda split, number: ranks[number])
        rank = len(shape.kernel)
        first = problem.unwhiten(cores[0][0].t().contiguous())
        chain = [Factor(first.reshape(*first.shape, *[1] * rank))]
        for core, axes in zip(cores[1:-1], long_axes(shape)):
            turned = core.permute(2, 0, 1)
            chain.append(Factor(turned.reshape(*turned.shape[:2], *along(axes[0], shape)), axes=axes))
        last = cores[-1][:, :, 0].t()
        if problem.second is not None:
            last = problem.fitted(as_matrix(dense(chain)))
        return Approximation([*chain, Factor(last.reshape(*last.shape, *[1] * rank))])


def _sizes(shape: Shape) -> list[int]:
    return [shape.in_, *(size for size in shape.kernel if size > 1), shape.out]


def _train_order(weight: torch.Tensor, shape: Shape) -> torch.Tensor:
    """[out, in, k…] as [in, k > 1…, out]."""
    return weight.movedim(0, -1).reshape(_sizes(shape))


def split_train(tensor: torch.Tensor, pick: Pick) -> tuple[list[torch.Tensor], Ranks]:
    """The cores [before, size, after] of a tensor's train, and the ranks between them."""
    cores, ranks = [], []
    rest, before = tensor.reshape(1, -1), 1
    for number, size in enumerate(tensor.shape[:-1]):
        matrix = rest.reshape(before * size, -1)
        split = spectrum(matrix)
        rank = min(pick(split, number), *matrix.shape)
        basis = split.left(matrix, rank)
        cores.append(basis.reshape(before, size, rank))
        rest, before = basis.t() @ matrix, rank
        ranks.append(rank)
    return [*cores, rest.reshape(before, tensor.shape[-1], 1)], tuple(ranks)
