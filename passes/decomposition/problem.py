"""What is decomposed: a weight, and how its error counts.

An error ΔW of a layer changes its output by ΔW x. Over calibration data, with Σ the second moment of what the columns
of W read,

    E‖ΔW x‖² = tr(ΔW Σ ΔWᵀ) = ‖ΔW L‖²,     Σ = L Lᵀ

so the best approximation of W in that sense is the best one of W L in the plain sense (whitening; SVD-LLM). Where the
bias may make up for the mean, b ← b + (W − Ŵ) E[x], what is left is the error on x − E[x], and Σ is its covariance.
Without data Σ = I.

A convolution is the matrix [out, kernel · in] on patches. Methods that treat the input channels alone are whitened by
the mean of Σ over kernel positions; their last factor is then fitted to all of Σ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch

from graphopt.errors import GraphOptError
from graphopt.passes.decomposition.spectra import singular_squares

DAMPING = 1e-7
"""Added to the diagonal of Σ, times its mean, and ten times as much after each failure."""


@dataclass(frozen=True)
class Shape:
    """A layer of one group: [out, in, *kernel]. kind: linear, conv, transposed or embedding."""

    kind: str
    out: int
    in_: int
    kernel: tuple[int, ...] = ()
    groups: int = 1

    @property
    def columns(self) -> int:
        """What one output reads."""
        return self.in_ * prod(self.kernel)

    @property
    def numel(self) -> int:
        """The weights of all groups."""
        return self.groups * self.out * self.columns


class Problem:
    """A weight of one group, and what its input is like.

    weight: [out, in, *kernel]. second: Σ, [kernel · in, kernel · in], kernel positions first; or None.
    """

    def __init__(self, weight: torch.Tensor, second: torch.Tensor | None = None) -> None:
        self.weight = weight.double()
        self.second = None if second is None else second.double()

    @cached_property
    def matrix(self) -> torch.Tensor:
        """The weight as [out, kernel · in]."""
        return as_matrix(self.weight)

    @cached_property
    def root(self) -> torch.Tensor | None:
        """L of Σ."""
        return None if self.second is None else cholesky(self.second)

    @cached_property
    def channel_root(self) -> torch.Tensor | None:
        """L of the mean of Σ over kernel positions, [in, in]."""
        if self.second is None:
            return None
        channels = self.weight.shape[1]
        blocks = self.second.reshape(-1, channels, self.second.shape[0] // channels, channels)
        return cholesky(blocks.diagonal(dim1=0, dim2=2).mean(-1))

    def whitened(self) -> torch.Tensor:
        """W L, [out, kernel · in]."""
        return self.matrix if self.root is None else self.matrix @ self.root

    @cached_property
    def squares(self) -> torch.Tensor:
        """The squares of the singular values of W L, the largest first."""
        return singular_squares(self.whitened())

    def whitened_channels(self) -> torch.Tensor:
        """W with L applied to its input channels, [out, in, *kernel]."""
        if self.channel_root is None:
            return self.weight
        return torch.einsum("oi...,ij->oj...", self.weight, self.channel_root)

    def unwhiten(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows that act on whitened input channels, [r, in], as ones that act on the input."""
        if self.channel_root is None:
            return rows
        return torch.linalg.solve_triangular(self.channel_root, rows, upper=False, left=False)

    @cached_property
    def energy(self) -> float:
        """tr(W Σ Wᵀ)."""
        return self.squared(self.matrix)

    def squared(self, matrix: torch.Tensor) -> float:
        """tr(M Σ Mᵀ)."""
        if self.second is None:
            return float(matrix.square().sum())
        return max(float(((matrix @ self.second) * matrix).sum()), 0.0)

    def error(self, weight: torch.Tensor) -> float:
        """The relative squared error of an approximation, [out, in, *kernel]."""
        return self.squared(self.matrix - as_matrix(weight)) / (self.energy or 1.0)

    def fitted(self, features: torch.Tensor) -> torch.Tensor:
        """The last factor F, [out, f], that is best after others: min ‖W − F P‖ in Σ, with P: [f, kernel · in].

        F = W Σ Pᵀ (P Σ Pᵀ)⁻¹
        """
        moved = features if self.second is None else features @ self.second
        # A pseudo-inverse, since features may repeat one another.
        return self.matrix @ moved.t() @ torch.linalg.pinv(moved @ features.t(), hermitian=True, rtol=1e-12)


def as_matrix(weight: torch.Tensor) -> torch.Tensor:
    """[out, in, *kernel] as [out, kernel · in]."""
    return weight.flatten(2).transpose(1, 2).flatten(1) if weight.dim() > 2 else weight


def as_weight(matrix: torch.Tensor, channels: int, kernel: tuple[int, ...]) -> torch.Tensor:
    """The inverse of `as_matrix`."""
    if not kernel:
        return matrix
    return matrix.reshape(len(matrix), -1, channels).transpose(1, 2).reshape(len(matrix), channels, *kernel)


def cholesky(second: torch.Tensor) -> torch.Tensor:
    """The lower factor of a positive semidefinite matrix, damped as much as it takes.

    Raises:
        GraphOptError: it is not finite.
    """
    if not bool(second.isfinite().all()):
        raise GraphOptError("what the layer reads on the calibration data is not finite")
    mean = float(second.diagonal().mean())
    damping = DAMPING * (mean if mean > 0 else 1.0)
    eye = torch.eye(len(second), dtype=second.dtype, device=second.device)
    while True:
        found, info = torch.linalg.cholesky_ex(second + damping * eye)
        if int(info) == 0:
            return found
        damping *= 10
