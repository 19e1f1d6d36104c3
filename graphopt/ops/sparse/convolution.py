"""`graphopt.sparse_conv`: act(conv(X, W) + b) with W stored by its blocks that are not zero (see `blocks`).

input [N, C, …] or [C, …], in one to three spatial dims. W is the matrix [O, C · kernel places] that the dense weight
[O, C, k…] reshapes to; a grouped convolution is one whose rows are zero outside of their group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from graphopt.ir import TensorType, Trait
from graphopt.kernels import SparseMatrix, multiply
from graphopt.ops.inference import Mismatch
from graphopt.ops.inference.convolution import convolve
from graphopt.ops.sparse.blocks import dense
from graphopt.ops.sparse.geometry import Geometry, geometry
from graphopt.ops.sparse.library import activated, register_sparse
from graphopt.ops.sparse.linear import check_parts, runs_kernel
from graphopt.ops.sparse.matrices import prepared
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.sparse_conv"
_APART = 64
"""From how many pixels on images are multiplied one by one, where none need be moved for it."""
_ADDRESSES = 2**31


def _kernel(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    activation: str = "none",
) -> torch.Tensor:
    images = input.detach() if input.dim() == len(kernel_size) + 2 else input.detach().unsqueeze(0)
    place = geometry(images, kernel_size, stride, padding, dilation)
    if not runs_kernel(input, values) or place.size >= _ADDRESSES or not input.numel() or min(place.outputs) < 1:
        options = (kernel_size, stride, padding, dilation, activation)
        return reference(input, crow_indices, col_indices, values, bias, *options)
    activated(input[:0], activation)  # refuses other names

    def matrix(key: Any, inner: int, addresses: Callable[[], torch.Tensor | None]) -> SparseMatrix:
        parts = (crow_indices, col_indices, values)
        return prepared(*parts, key, lambda: SparseMatrix(*parts, inner, addresses()))

    if place.is_product and (place.batch == 1 or images[0, 0].numel() >= _APART):
        product = matrix(place.channels, place.channels, lambda: None)
        rows = images.contiguous().reshape(place.batch, place.channels, -1)
        found = [multiply(product, image, bias, activation) for image in rows]
        result = (found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)).reshape(
            place.batch, -1, *place.outputs
        )
    else:
        inner = place.channels * math.prod(place.kernel)
        sparse = matrix(place, inner, place.addresses)
        laid = place.laid_out(images)
        result = place.cut(multiply(sparse, laid, bias, activation, columns=place.columns))
    return result if images is input or input.dim() == result.dim() else result.squeeze(0)


def reference(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str = "none",
) -> torch.Tensor:
    """The same by the dense convolution; it differentiates."""
    channels = input.shape[-len(kernel_size) - 1]
    matrix = dense(crow_indices, col_indices, values, channels * math.prod(kernel_size))
    convolution = (F.conv1d, F.conv2d, F.conv3d)[len(kernel_size) - 1]
    weight = matrix.reshape(-1, channels, *kernel_size)
    return activated(convolution(input, weight, bias, stride, padding, dilation), activation)


def _fake(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    activation: str = "none",
) -> torch.Tensor:
    n = len(kernel_size)
    sizes = Geometry(1, 1, tuple(input.shape[-n:]), *map(tuple, (kernel_size, stride, padding, dilation))).outputs
    rows = (crow_indices.shape[0] - 1) * values.shape[1]
    return input.new_empty((*input.shape[: -n - 1], rows, *sizes))


def _infer(
    x: TensorType,
    crow_indices: TensorType,
    col_indices: TensorType,
    values: TensorType,
    bias: TensorType | None,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    activation: str,
) -> Any:
    """As the dense convolution has it."""
    rows = check_parts(x, crow_indices, col_indices, values, bias)
    n = len(kernel_size)
    if any(len(numbers) != n for numbers in (stride, padding, dilation)) or x.rank not in (n + 1, n + 2):
        raise Mismatch(f"a kernel of {n} dims has as many strides, paddings and dilations, and the input {n + 2} dims")
    weight = x.with_shape((rows, x.shape[-n - 1], *kernel_size))
    return convolve(x, weight, None, stride, padding, dilation)


register_sparse(
    "sparse_conv",
    'int[] kernel_size, int[] stride, int[] padding, int[] dilation, str activation="none"',
    _kernel,
    _fake,
    reference,
)
register_torch_op(NAME, (Trait.PURE,), _infer)
