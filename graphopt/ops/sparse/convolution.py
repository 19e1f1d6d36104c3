"""`graphopt.sparse_conv`: act(conv(X, W) + b) with W stored by its blocks that are not zero (see `blocks`).

input [N, C, …] or [C, …], in one to three spatial dims. W is the matrix [O, C · kernel places] that the dense weight
[O, C, k…] reshapes to; a grouped convolution is one whose rows are zero outside of their group.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from graphopt.ir import TensorType, Trait
from graphopt.kernels import SparseMatrix, multiply
from graphopt.ops.inference import Mismatch
from graphopt.ops.inference.convolution import convolve
from graphopt.ops.sparse.blocks import dense
from graphopt.ops.sparse.geometry import Geometry, geometry
from graphopt.ops.sparse.library import activated, check_activation, register_sparse
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
    options = (kernel_size, stride, padding, dilation)
    if not runs_kernel(input, values) or not input.numel():
        return reference(input, crow_indices, col_indices, values, bias, *options, activation)
    check_activation(activation)
    parts = (crow_indices, col_indices, values)
    images = input.detach() if input.dim() == len(kernel_size) + 2 else input.detach().unsqueeze(0)
    pointwise = not any(padding) and all(n == 1 for n in (*kernel_size, *stride))
    if pointwise and (len(images) == 1 or images[0, 0].numel() >= _APART):
        found = _product(images, parts, bias, activation)
    else:
        place = geometry(images, kernel_size, stride, padding, dilation)
        if place.size >= _ADDRESSES or min(place.outputs) < 1:
            return reference(input, crow_indices, col_indices, values, bias, *options, activation)
        found = _direct(images, place, parts, bias, activation)
    return found if found.dim() == input.dim() else found.squeeze(0)


Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _product(images: torch.Tensor, parts: Parts, bias: torch.Tensor | None, activation: str) -> torch.Tensor:
    """Each output reads one place: W times each image as it is."""
    channels = images.shape[1]
    matrix = prepared(*parts, channels, lambda: SparseMatrix(*parts, channels))
    found = [multiply(matrix, image, bias, activation) for image in images.contiguous().flatten(2)]
    return (found[0].unsqueeze(0) if len(found) == 1 else torch.stack(found)).unflatten(2, images.shape[2:])


def _direct(
    images: torch.Tensor, place: Geometry, parts: Parts, bias: torch.Tensor | None, activation: str
) -> torch.Tensor:
    """W times the rows of the padded images that its columns start."""
    inner = place.channels * math.prod(place.kernel)
    matrix = prepared(*parts, place, lambda: SparseMatrix(*parts, inner, place.addresses()))
    return place.cut(multiply(matrix, place.laid_out(images), bias, activation, columns=place.columns))


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
