"""`graphopt.sparse_linear`: act(X Wᵀ + b) with W [M, K] stored by its blocks that are not zero (see `blocks`).

input [..., K] → [..., M]. In single precision on the CPU it runs the kernels of `graphopt.kernels`; in double
precision, and where these cannot be made, PyTorch's product with a CSR matrix; in other precisions the dense product.
"""

from __future__ import annotations

import warnings

import torch
from torch.nn import functional as F

from graphopt.ir import TensorType, Trait
from graphopt.kernels import SparseMatrix, multiply, unavailable
from graphopt.ops.inference import Mismatch
from graphopt.ops.inference.shapes import require_equal
from graphopt.ops.sparse.blocks import as_rows, dense
from graphopt.ops.sparse.library import activated, check_activation, register_sparse
from graphopt.ops.sparse.matrices import prepared
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.sparse_linear"
_CSR = (torch.float32, torch.float64)


def sparse_linear(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    in_features: int,
    activation: str = "none",
) -> torch.Tensor:
    """act(input Wᵀ + bias), W [M, in_features]. activation: none, relu, silu or gelu (by erf).

    >>> from graphopt.ops.sparse.blocks import compress
    >>> sparse_linear(torch.tensor([[1.0, 10.0]]), *compress(torch.tensor([[0.0, 2.0], [3.0, 0.0]])), None, 2)
    tensor([[20.,  3.]])
    """
    result: torch.Tensor = torch.ops.graphopt.sparse_linear(
        input, crow_indices, col_indices, values, bias, in_features, activation
    )
    return result


def runs_kernel(x: torch.Tensor, values: torch.Tensor) -> bool:
    """Whether the kernels of this package compute a product."""
    single = x.dtype is torch.float32 and values.dtype is torch.float32
    return single and x.is_cpu and values.is_cpu and unavailable() is None


def _kernel(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    in_features: int,
    activation: str = "none",
) -> torch.Tensor:
    if runs_kernel(input, values):
        check_activation(activation)
        matrix = prepared(
            crow_indices,
            col_indices,
            values,
            in_features,
            lambda: SparseMatrix(crow_indices, col_indices, values, in_features),
        )
        flat = input.detach().reshape(-1, in_features).contiguous()
        found = multiply(matrix, flat, bias, activation, "transposed")
        return found.reshape(*input.shape[:-1], found.shape[-1])
    if values.dtype in _CSR and input.dtype is values.dtype and input.is_cpu:
        return _by_csr(input, crow_indices, col_indices, values, bias, in_features, activation)
    return reference(input, crow_indices, col_indices, values, bias, in_features, activation)


def _by_csr(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    in_features: int,
    activation: str,
) -> torch.Tensor:
    def make() -> torch.Tensor:
        parts = as_rows(crow_indices, col_indices, values.detach())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(*parts[:2], parts[2][:, 0], (rows, in_features), check_invariants=False)

    rows = (crow_indices.numel() - 1) * values.shape[1]
    matrix = prepared(crow_indices, col_indices, values, ("csr", in_features), make)
    product = (matrix @ input.detach().reshape(-1, in_features).t()).t()
    if bias is not None:
        product = product + bias
    return activated(product, activation).reshape(*input.shape[:-1], rows).contiguous()


def reference(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    in_features: int,
    activation: str = "none",
) -> torch.Tensor:
    """The same by the dense product; it differentiates."""
    return activated(F.linear(input, dense(crow_indices, col_indices, values, in_features), bias), activation)


def _fake(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    in_features: int,
    activation: str = "none",
) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], (crow_indices.shape[0] - 1) * values.shape[1]))


def check_parts(
    x: TensorType, crow_indices: TensorType, col_indices: TensorType, values: TensorType, bias: TensorType | None
) -> int:
    """How many rows W has.

    Raises:
        Mismatch: the parts of W do not fit each other, or the input.
    """
    if (crow_indices.rank, col_indices.rank, values.rank) != (1, 1, 2):
        raise Mismatch("a sparse weight has row starts [R + 1], columns [blocks] and values [blocks, height]")
    require_equal(col_indices.shape[0], values.shape[0], "columns and values differ in blocks")
    if x.dtype is not values.dtype:
        raise Mismatch(f"the input is {x.dtype.value}, the values are {values.dtype.value}")
    blocks, height = crow_indices.shape[0], values.shape[1]
    if not isinstance(blocks, int) or not isinstance(height, int):
        raise Mismatch("a sparse weight has a known number of rows")
    rows = (blocks - 1) * height
    if bias is not None:
        require_equal(bias.shape[0], rows, "the bias does not fit the rows")
    return rows


def _infer(
    x: TensorType,
    crow_indices: TensorType,
    col_indices: TensorType,
    values: TensorType,
    bias: TensorType | None,
    in_features: int,
    activation: str,
) -> TensorType:
    """[..., K] → [..., M]."""
    rows = check_parts(x, crow_indices, col_indices, values, bias)
    require_equal(x.shape[-1], in_features, "input and weight differ in their inner size")
    return x.with_shape((*x.shape[:-1], rows))


register_sparse("sparse_linear", 'int in_features, str activation="none"', _kernel, _fake, reference)
register_torch_op(NAME, (Trait.PURE,), _infer)
