"""`graphopt.sparse_conv2d`: a convolution with sparse weights, without laying out its windows.

input [B, C, H, W]; W [O, C·k·l] in block compressed rows, columns in the order of a weight [O, C, k, l]; bias [O].

The image is padded once (and split into phases, where the stride is s: phase (a, b) has the rows a, a + s, … and the
columns b, b + s, …). There, with rows of length R, output (i, j) at place i·R + j meets input (c, k, l) at one offset
for all outputs, so that the product reads rows of the image where they lie:

    Y[o, n] = Σ W[o, (c, k, l)] · image[offset(c, k, l) + n]        n < H′ · R

What lies in the columns of R beyond the output's width is computed, and cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from graphopt.ir import TensorType, Trait
from graphopt.kernels import SparseMatrix, multiply
from graphopt.ops.inference import Mismatch
from graphopt.ops.inference.convolution import window_size
from graphopt.ops.sparse.blocks import dense
from graphopt.ops.sparse.library import activated, register_sparse
from graphopt.ops.sparse.linear import check_parts, runs_kernel
from graphopt.ops.sparse.matrices import prepared
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.sparse_conv2d"
_REST = 'int[] kernel, int[] stride=[1, 1], int[] padding=[0, 0], int[] dilation=[1, 1], str activation="none"'


@dataclass(frozen=True)
class Geometry:
    """The sizes of a convolution over images [C, H, W]."""

    channels: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def plain(self) -> bool:
        """Whether each output meets one place of the input: a product of matrices."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    @property
    def output(self) -> tuple[int, int]:
        """The height and width of the result."""
        sizes = zip((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return height, width

    @property
    def phase(self) -> tuple[int, int]:
        """The height and width of each phase: of the padded image, and a row more, which the last reads run into."""
        (s, t), (p, q) = self.stride, self.padding
        return -(-(self.height + 2 * p) // s) + 1, -(-(self.width + 2 * q) // t)

    def offsets(self) -> torch.Tensor:
        """Where the row of each column (c, k, l) of W starts in the phases of the image."""
        (s, t), (height, width) = self.stride, self.phase
        c = torch.arange(self.channels)[:, None, None]
        k = (torch.arange(self.kernel[0]) * self.dilation[0])[:, None]
        m = torch.arange(self.kernel[1]) * self.dilation[1]
        plane = (c * s + k % s) * t + m % t
        return (plane * (height * width) + k // s * width + m // t).flatten()

    def phases(self, image: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W] → [B, C, s, t, height, width]."""
        (s, t), (p, q), (height, width) = self.stride, self.padding, self.phase
        below, right = height * s - self.height - p, width * t - self.width - q
        padded = functional.pad(image, (q, right, p, below))
        split = padded.unflatten(3, (width, t)).unflatten(2, (height, s))
        return split.permute(0, 1, 3, 5, 2, 4).contiguous()


def _conv(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    activation: str = "none",
) -> torch.Tensor:
    if not runs_kernel(input, values):
        return _reference(input, crow_indices, col_indices, values, bias, kernel, stride, padding, dilation, activation)
    activated(input[:0], activation)  # refuses other names
    pairs = ((n[0], n[1]) for n in (kernel, stride, padding, dilation))
    sizes = Geometry(*input.shape[1:], *pairs)
    inner = sizes.channels * sizes.kernel[0] * sizes.kernel[1]
    height, width = sizes.output
    if sizes.plain:
        matrix = prepared(
            crow_indices, col_indices, values, inner, lambda: SparseMatrix(crow_indices, col_indices, values, inner)
        )
        samples = [multiply(matrix, x, bias, activation) for x in input.contiguous().flatten(2)]
        return torch.stack(samples).unflatten(2, (height, width))
    matrix = prepared(
        crow_indices,
        col_indices,
        values,
        sizes,
        lambda: SparseMatrix(crow_indices, col_indices, values, inner, sizes.offsets()),
    )
    row = sizes.phase[1]
    grids = [multiply(matrix, x, bias, activation, columns=height * row) for x in sizes.phases(input)]
    return torch.stack(grids).unflatten(2, (height, row))[..., :width].contiguous()


def _reference(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    activation: str = "none",
) -> torch.Tensor:
    channels = input.shape[1]
    matrix = dense(crow_indices, col_indices, values, channels * kernel[0] * kernel[1])
    weight = matrix.reshape(-1, channels, *kernel)
    y = functional.conv2d(input, weight, bias, list(stride), list(padding), list(dilation))
    return activated(y, activation)


def _empty(
    input: torch.Tensor,
    crow_indices: torch.Tensor,
    col_indices: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    activation: str = "none",
) -> torch.Tensor:
    sizes = [window_size(*numbers) for numbers in zip(input.shape[2:], kernel, stride, padding, dilation)]
    return input.new_empty((input.shape[0], (crow_indices.shape[0] - 1) * values.shape[1], *sizes))


register_sparse("sparse_conv2d", _REST, _conv, _empty, _reference)


def _infer(
    input: TensorType,
    crow_indices: TensorType,
    col_indices: TensorType,
    values: TensorType,
    bias: TensorType | None,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    activation: str,
) -> TensorType:
    """The sizes of a convolution's result."""
    if input.rank != 4 or not len(kernel) == len(stride) == len(padding) == len(dilation) == 2:
        raise Mismatch(f"a convolution of images takes four dims and pairs of sizes, not {input!r}")
    sizes = [window_size(*numbers) for numbers in zip(input.shape[2:], kernel, stride, padding, dilation)]
    return input.with_shape((input.shape[0], check_parts(input, crow_indices, col_indices, values, bias), *sizes))


register_torch_op(NAME, (Trait.PURE,), _infer)
