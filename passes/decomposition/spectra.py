"""Truncated bases of matrices, by the eigenvectors of the smaller Gram matrix, in double precision.

With B = U S Vᵀ the best approximation of rank r is U_r U_rᵀ B, and its squared error Σ_{i>r} s_i². If B = W L, then
W_r = U_r U_rᵀ W: whitening needs no inverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Spectrum:
    """shape: of the matrix. squares: of the singular values, the largest first. vectors: of the smaller Gram matrix."""

    shape: tuple[int, int]
    squares: torch.Tensor
    vectors: torch.Tensor

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The singular values, from the largest on."""
        return np.asarray(self.squares.sqrt().cpu())

    @property
    def by_rows(self) -> bool:
        """Whether the vectors are those of rows."""
        return self.shape[0] <= self.shape[1]

    def left(self, matrix: torch.Tensor, rank: int) -> torch.Tensor:
        """An orthonormal basis U_r, [rows, r], of the matrix that the spectrum is of; its largest entries positive."""
        found = self.vectors[:, :rank] if self.by_rows else torch.linalg.qr(matrix @ self.vectors[:, :rank]).Q
        largest = found.gather(0, found.abs().argmax(0, keepdim=True))
        return torch.where(largest < 0, -found, found)

    def tails(self) -> torch.Tensor:
        """Σ_{i>r} s_i² for r from 0 on."""
        return tails(self.squares)


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """The spectrum of a matrix in double precision."""
    rows, columns = matrix.shape
    values, vectors = torch.linalg.eigh(matrix @ matrix.t() if rows <= columns else matrix.t() @ matrix)
    return Spectrum((rows, columns), values.clamp(min=0).flip(0), vectors.flip(1))


def singular_squares(matrix: torch.Tensor) -> torch.Tensor:
    """The squares of the singular values, the largest first; without vectors that is several times faster."""
    rows, columns = matrix.shape
    values = torch.linalg.eigvalsh(matrix @ matrix.t() if rows <= columns else matrix.t() @ matrix)
    return values.clamp(min=0).flip(0)


def tails(squares: torch.Tensor) -> torch.Tensor:
    """Σ_{i>r} s_i² for r from 0 on."""
    return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])


def unfolding(tensor: torch.Tensor, mode: int) -> torch.Tensor:
    """The matrix [size of the mode, all others]."""
    return tensor.movedim(mode, 0).flatten(1)


def mode_product(tensor: torch.Tensor, matrix: torch.Tensor, mode: int) -> torch.Tensor:
    """The tensor with a matrix [new, size] applied to one of its modes."""
    return torch.tensordot(matrix, tensor, dims=([1], [mode])).movedim(0, mode)
