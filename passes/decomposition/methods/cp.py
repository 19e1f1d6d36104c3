"""CP, the canonical polyadic decomposition (Lebedev et al., 2015): a convolution as four thin ones.

    1×1: in → R, then k₁×1 and 1×k₂, each channel alone, then 1×1: R → out

    W[o, i, h, w] ≈ Σ_r A[o, r] B[i, r] C[h, r] D[w, r]

Alternating least squares by tensorly, from more than one start, on the tensor's Tucker core where R is less than its
channels. It may not settle, and components may grow without bound while they cancel one another; such a sum is of no
use in single precision, nor to train. They are brought down without losing accuracy by the error-preserving correction
(Phan et al., 2020): for each factor in turn

    min Σ_r ‖component r‖²   with   ‖W − Ŵ‖ ≤ δ,

which has the solution W₍ₙ₎ Z (ZᵀZ + μ I)⁻¹ with the greatest μ that keeps to δ.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.errors import GraphOptError
from graphopt.passes.decomposition.evbmf import evbmf_rank
from graphopt.passes.decomposition.factors import Factor, dense, parameters
from graphopt.passes.decomposition.methods.base import Approximation, Ranks, blank
from graphopt.passes.decomposition.methods.tensor_train import along, long_axes
from graphopt.passes.decomposition.problem import Problem, Shape, as_matrix
from graphopt.passes.decomposition.spectra import spectrum, unfolding

SWEEPS, SETTLED = 60, 1e-5
"""Of alternating least squares: how many, and the change of the relative error at which they have settled."""

STARTS = ("svd", "random", "random")
DEGENERATE = 10.0
"""Components whose squares add up to so many times that of the tensor cancel one another."""

SLACK = 1.01
"""What the correction may make of the error."""

LOOKS = 6
"""Ranks that are tried for a curve."""


class Cp:
    """The rank is the number of components."""

    name = "cp"
    extra: str | None = "tensorly"

    def why_not(self, shape: Shape) -> str | None:
        if shape.kind != "conv" or all(size == 1 for size in shape.kernel):
            return "cp splits convolutions with a kernel; of a matrix it is the SVD"
        return "cp is not done by groups; svd is" if shape.groups > 1 else None

    def full(self, shape: Shape) -> Ranks:
        """That of any tensor of this shape at most: all modes but the largest."""
        sizes = [shape.in_, shape.out, *(size for size in shape.kernel if size > 1)]
        return (int(np.prod(sizes)) // max(sizes),)

    def layout(self, shape: Shape, ranks: Ranks) -> list[Factor]:
        (rank,), ones = ranks, [1] * len(shape.kernel)
        middle = [Factor(blank(rank, 1, *along(axes[0], shape)), rank, axes) for axes in long_axes(shape)]
        return [Factor(blank(rank, shape.in_, *ones)), *middle, Factor(blank(shape.out, rank, *ones))]

    def errors(self, problems: Sequence[Problem], shape: Shape, wanted: Iterable[Ranks]) -> dict[Ranks, float]:
        (problem,) = problems
        return {ranks: problem.error(dense(self.approximate(problem, shape, ranks).chain)) for ranks in wanted}

    def grid(self, problems: Sequence[Problem], shape: Shape, steps: Sequence[Sequence[int]]) -> list[Ranks]:
        paying = [step for step in steps[0] if parameters(self.layout(shape, (step,))) < shape.numel]
        if not paying:
            return []
        wanted = np.geomspace(paying[0], paying[-1], LOOKS)
        return [(min(paying, key=lambda step: abs(step - near)),) for near in dict.fromkeys(wanted.round().tolist())]

    def is_cheap(self, data: bool) -> bool:
        return False

    def evbmf(self, problem: Problem, shape: Shape) -> Ranks:
        """The greatest of the channels' unfoldings: a tensor has at least so many components."""
        matrices = [unfolding(problem.weight, mode) for mode in (0, 1)]
        return (max(evbmf_rank(spectrum(matrix).values, *matrix.shape) for matrix in matrices),)

    def approximate(self, problem: Problem, shape: Shape, ranks: Ranks) -> Approximation:
        """As a chain.

        Raises:
            GraphOptError: no start gave numbers. MissingExtra: tensorly is not installed.
        """
        sizes = [size for size in shape.kernel if size > 1]
        tensor = problem.whitened_channels().reshape(shape.out, shape.in_, *sizes)
        found = components(tensor, ranks[0])
        out, into, *middle = found.factors
        rank = len(shape.kernel)
        first = problem.unwhiten(into.t().contiguous())
        chain = [Factor(first.reshape(*first.shape, *[1] * rank))]
        for matrix, axes in zip(middle, long_axes(shape)):
            chain.append(Factor(matrix.t().reshape(ranks[0], 1, *along(axes[0], shape)), ranks[0], axes))
        if problem.second is not None:
            out = problem.fitted(as_matrix(dense(chain)))
        return Approximation([*chain, Factor(out.reshape(*out.shape, *[1] * rank))], found.notes)


@dataclass
class Components:
    """factors: a matrix [size, R] for each mode. error: relative. notes: what did not go smoothly."""

    factors: list[torch.Tensor]
    error: float
    notes: list[str]


def components(tensor: torch.Tensor, rank: int, sweeps: int = SWEEPS) -> Components:
    """The CP decomposition of a tensor.

    Raises:
        GraphOptError: tensorly is missing, or no start gave finite numbers.
    """
    core, bases = _compressed(tensor, rank)
    best: Components | None = None
    settled = False
    tried = 0
    for tried, start in enumerate(STARTS, start=1):
        found = _alternate(core, rank, start, tried, sweeps)
        if found is None:
            continue
        factors, settled = found
        error = float((core - whole(factors)).norm() / (core.norm() or 1.0))
        if best is None or error < best.error:
            best = Components(factors, error, [])
        if settled:
            break
    if best is None:
        raise GraphOptError(f"alternating least squares gave no finite numbers at rank {rank} from {tried} starts")
    if not settled:
        best.notes.append(f"alternating least squares did not settle from {tried} starts; the best of them is taken")
    grown = _grown(best.factors, core)
    if grown > DEGENERATE:
        best.factors = corrected(core, best.factors, SLACK * best.error)
        told = f"{grown:.3g} to {_grown(best.factors, core):.3g} times the weight's"
        best.notes.append(f"degenerate components were brought down: their squares from {told}")
    best.factors = [basis @ factor for basis, factor in zip(bases, best.factors)]
    return best


def whole(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tensor that factors stand for."""
    found = factors[0]
    for factor in factors[1:]:
        found = found.unsqueeze(-2) * factor
    return found.sum(-1)


def _compressed(tensor: torch.Tensor, rank: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The tensor on the leading bases of its unfoldings, since R components span R vectors of each mode."""
    bases = []
    core = tensor
    for mode, size in enumerate(tensor.shape):
        matrix = unfolding(core, mode)
        found = spectrum(matrix)
        kept = min(size, rank, len(found.squares))
        basis = found.left(matrix, kept)
        core = torch.tensordot(basis.t(), core, dims=([1], [mode])).movedim(0, mode)
        bases.append(basis)
    return core, bases


def _alternate(
    tensor: torch.Tensor, rank: int, start: str, seed: int, sweeps: int
) -> tuple[list[torch.Tensor], bool] | None:
    """Factors, and whether the error has settled; None if they are not finite."""
    try:
        import tensorly
        from tensorly.decomposition import parafac
    except ModuleNotFoundError as error:
        raise GraphOptError(
            "cp needs tensorly: pip install 'graphopt[decomposition]', or choose svd, tucker, spatial or tensor-train"
        ) from error
    try:
        with warnings.catch_warnings(), tensorly.backend_context("numpy", local_threadsafe=True):
            warnings.simplefilter("ignore")
            (weights, factors), errors = parafac(
                tensor.cpu().numpy(),
                rank,
                n_iter_max=sweeps,
                init=start,
                tol=SETTLED,
                random_state=seed,
                return_errors=True,
            )
    except np.linalg.LinAlgError:
        return None
    found = [torch.from_numpy(np.asarray(factor)).to(tensor) for factor in factors]
    found[0] = found[0] * torch.from_numpy(np.asarray(weights)).to(tensor)
    if not all(bool(factor.isfinite().all()) for factor in found):
        return None
    return found, len(errors) < sweeps or abs(float(errors[-2]) - float(errors[-1])) < SETTLED


def _grown(factors: Sequence[torch.Tensor], tensor: torch.Tensor) -> float:
    squares = torch.stack([factor.square().sum(0) for factor in factors]).prod(0).sum()
    return float(squares / tensor.square().sum().clamp(min=torch.finfo(torch.float64).tiny))


def corrected(
    tensor: torch.Tensor, factors: Sequence[torch.Tensor], bound: float, sweeps: int = 20
) -> list[torch.Tensor]:
    """The error-preserving correction. bound: of the relative error."""
    found = [factor.clone() for factor in factors]
    allowed = (bound * float(tensor.norm())) ** 2
    for _ in range(sweeps):
        for mode in range(len(found)):
            others = [f / f.norm(dim=0).clamp(min=1e-300) for n, f in enumerate(found) if n != mode]
            gram = torch.stack([f.t() @ f for f in others]).prod(0)
            cross = unfolding(tensor, mode) @ _khatri_rao(others)
            moved = _least_norm(tensor, gram, cross, allowed)
            if moved is None:
                continue
            found = [moved if n == mode else others[n if n < mode else n - 1] for n in range(len(found))]
    size = torch.stack([factor.norm(dim=0) for factor in found]).prod(0) ** (1 / len(found))
    return [factor / factor.norm(dim=0).clamp(min=1e-300) * size for factor in found]


def _khatri_rao(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    found = factors[0]
    for factor in factors[1:]:
        found = (found.unsqueeze(1) * factor).flatten(0, 1)
    return found


def _least_norm(tensor: torch.Tensor, gram: torch.Tensor, cross: torch.Tensor, allowed: float) -> torch.Tensor | None:
    """X = cross (gram + μ I)⁻¹ with the greatest μ whose squared error ‖T‖² − 2⟨X, cross⟩ + ⟨X gram, X⟩ is allowed."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    turned = cross @ vectors
    energy, squares = float(tensor.square().sum()), turned.square().sum(0)

    def squared_error(mu: float) -> float:
        filtered = 1 / (values + mu)
        return energy - float((squares * filtered * (2 - values * filtered)).sum())

    largest = float(values[-1])
    low, high = 1e-12 * largest, 1e3 * largest
    if squared_error(low) > allowed:
        return None
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if squared_error(middle) <= allowed else (low, middle)
    return (turned / (values + low)) @ vectors.t()
