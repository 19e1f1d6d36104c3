"""Weights made ready for the kernel, once for each tensor: let go of with it, and made anew where it changed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from graphopt.kernels import SparseMatrix, unavailable
from graphopt.ops.sparse.storage import RowBlocks, check

_LOCK = threading.Lock()


@dataclass
class _Entry:
    version: tuple[int, ...]
    made: dict[Hashable, Any] = field(default_factory=dict)


_PREPARED = WeakTensorKeyDictionary()


def runs_on_kernel(x: torch.Tensor, matrix: RowBlocks) -> bool:
    """Whether our own kernel computes with these: single precision, on the CPU, and a generator of code is there."""
    single = x.dtype is matrix.values.dtype is torch.float32
    return single and x.device.type == matrix.values.device.type == "cpu" and unavailable() is None


def prepared(
    matrix: RowBlocks, columns: int, key: Hashable = None, addresses: Callable[[], torch.Tensor] | None = None
) -> SparseMatrix:
    """The weights for the kernel. key: which addresses they are for.

    Raises:
        ValueError: the indices are no matrix's.
    """
    return _kept(matrix, ("kernel", columns, key), lambda: _make(matrix, columns, addresses))


def _make(matrix: RowBlocks, columns: int, addresses: Callable[[], torch.Tensor] | None) -> SparseMatrix:
    check(matrix, columns)
    return SparseMatrix(*(x.detach() for x in matrix), columns, addresses() if addresses is not None else None)


def torch_sparse(matrix: RowBlocks, columns: int) -> torch.Tensor:
    """The weights as PyTorch's compressed sparse rows, for its kernels.

    Raises:
        ValueError: the indices are no matrix's.
    """
    return _kept(matrix, ("torch", columns), lambda: _torch_sparse(matrix, columns))


def _torch_sparse(matrix: RowBlocks, columns: int) -> torch.Tensor:
    check(matrix, columns)
    crow, col, values = (x.detach() for x in matrix)
    size = (matrix.rows, columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|BSR|invariant)")
        if values.shape[1] == 1:
            return torch.sparse_csr_tensor(crow, col, values[:, 0], size)
        return torch.sparse_bsr_tensor(crow, col, values.unsqueeze(2), size).to_sparse_coo().to_sparse_csr()


def _kept(matrix: RowBlocks, key: Hashable, make: Callable[[], Any]) -> Any:
    version = tuple(x._version for x in matrix) + tuple(x.data_ptr() for x in matrix)
    with _LOCK:
        entry = _PREPARED.get(matrix.values)
        if entry is None or entry.version != version:
            entry = _PREPARED[matrix.values] = _Entry(version)
        if key not in entry.made:
            entry.made[key] = make()
        return entry.made[key]
