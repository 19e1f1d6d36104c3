"""Products of integers, exactly, in 32 bits, and what stands around them in a model that computes in integers.

    matmul_integer(a, b)  = (a − a₀) · (b − b₀)              conv_integer(x, w, b) = (x − x₀) ∗ (w − w₀) + b
    requantize(y, scale)  = saturate(round(y · scale) + zero_point)
    dynamic_quantize(x)   = Q(x), scale, zero_point, with scale = (max(x, 0) − min(x, 0)) / 255

A product of two 8-bit matrices runs on PyTorch's integer kernel: (a − a₀)·(b − b₀) = a·b − a₀·Σb − (Σa)·b₀ + K·a₀·b₀,
with unsigned numbers shifted by 128 first. A convolution runs in floating point, in single precision where no sum can
reach 2²⁴ (there, every integer is exact), else in double.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphopt.ops.quantization.arithmetic import quantized
from graphopt.ops.quantization.formats import find_format
from graphopt.ops.quantization.library import LIBRARY, register_kernel

_EXACT = 1 << 24

LIBRARY.define("matmul_integer(Tensor a, Tensor b, Tensor? a_zero_point=None, Tensor? b_zero_point=None) -> Tensor")
LIBRARY.define(
    "conv_integer(Tensor input, Tensor weight, Tensor? bias=None, Tensor? input_zero_point=None, "
    "Tensor? weight_zero_point=None, *, int[] stride=[], int[] padding=[], int[] dilation=[], "
    "int groups=1) -> Tensor"
)
LIBRARY.define('requantize(Tensor input, Tensor scale, Tensor? zero_point=None, str dtype="int8") -> Tensor')
LIBRARY.define("dynamic_quantize(Tensor input) -> (Tensor, Tensor, Tensor)")


def matmul_integer(
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: torch.Tensor | None = None,
    b_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    """a [*, M, K] times b [*, K, N]; a zero point is one number, or one for each row of a, each column of b."""
    if a.dim() >= 2 and b.dim() == 2 and a.device.type == "cpu" and a.numel() and b.numel():
        return _by_integer_kernel(a, b, a_zero_point, b_zero_point)
    left, right = _centered(a, a_zero_point, row=True), _centered(b, b_zero_point, row=False)
    return torch.matmul(left, right).to(torch.int32)


def _centered(x: torch.Tensor, zero_point: torch.Tensor | None, row: bool) -> torch.Tensor:
    x = x.double()
    if zero_point is None:
        return x
    per_row = row and zero_point.dim() == 1 and zero_point.numel() > 1
    return x - (zero_point.unsqueeze(-1) if per_row else zero_point)


def _by_integer_kernel(
    a: torch.Tensor, b: torch.Tensor, a_zero_point: torch.Tensor | None, b_zero_point: torch.Tensor | None
) -> torch.Tensor:
    rows, (left, left_zero), (right, right_zero) = a.flatten(0, -2), _signed(a, a_zero_point), _signed(b, b_zero_point)
    left = left.reshape(rows.shape)
    product = torch._int_mm(left.contiguous(), right.contiguous())
    if right_zero is not None:
        product = product - left.sum(1, keepdim=True, dtype=torch.int32) * right_zero
    if left_zero is not None:
        left_zero = left_zero.expand(a.shape[:-1]).reshape(-1, 1) if left_zero.numel() > 1 else left_zero
        product = product - left_zero * right.sum(0, keepdim=True, dtype=torch.int32)
        if right_zero is not None:
            product = product + b.shape[0] * left_zero * right_zero
    return product.reshape(*a.shape[:-1], b.shape[1])


def _signed(x: torch.Tensor, zero_point: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same differences from the zero point, with numbers of 8 signed bits."""
    zero = None if zero_point is None else zero_point.to(torch.int32)
    if x.dtype is torch.int8:
        return x, zero
    shift = torch.full((), 128, dtype=torch.int32, device=x.device)
    return (x.to(torch.int16) - 128).to(torch.int8), (-shift if zero is None else zero - shift)


def conv_integer(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    input_zero_point: torch.Tensor | None = None,
    weight_zero_point: torch.Tensor | None = None,
    *,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> torch.Tensor:
    """input [N, C, *], weight [O, C/groups, *]; padding: all sizes before, then all behind, of numbers that mean 0.

    weight_zero_point: one number, or one for each output channel. bias: 32-bit integers, one a channel.
    """
    dims = weight.dim() - 2
    x, w = input.float(), weight.float()
    if input_zero_point is not None:
        x = x - input_zero_point.reshape(())
    if weight_zero_point is not None:
        w = w - weight_zero_point.reshape(-1, *[1] * (dims + 1))
    if x.numel() and w.numel() and float(x.abs().amax()) * float(w.abs().flatten(1).sum(1).amax()) >= _EXACT:
        x, w = x.double(), w.double()
    before, after = list(padding[:dims]), list(padding[dims:])
    if any(before) or any(after):
        x = torch.nn.functional.pad(x, [p for pair in zip(reversed(before), reversed(after)) for p in pair])
    ones = [1] * dims
    run = (torch.conv1d, torch.conv2d, torch.conv3d)[dims - 1]
    result: torch.Tensor = run(x, w, None, list(stride) or ones, [0] * dims, list(dilation) or ones, groups)
    sums = result.to(torch.int32)
    return sums if bias is None else sums + bias.reshape(-1, *ones)


def requantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str = "int8",
) -> torch.Tensor:
    """Bring 32-bit sums to another scale; `scale` broadcasts to their shape."""
    factor = scale.to(torch.float32 if scale.dtype is not torch.float64 else scale.dtype)
    one = torch.ones((), dtype=factor.dtype, device=input.device)
    zero = None if zero_point is None else zero_point.reshape(())
    return quantized(input.to(factor.dtype) * factor, one, zero, find_format(dtype), None, 0)


def dynamic_quantize(input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize to uint8 over the range that the tensor has. Return the numbers, the scale and the zero point."""
    wide = input.to(torch.float32 if input.dtype is not torch.float64 else input.dtype)
    zero = torch.zeros((), dtype=wide.dtype, device=wide.device)
    low = torch.minimum(wide.amin(), zero) if wide.numel() else zero
    high = torch.maximum(wide.amax(), zero) if wide.numel() else zero
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero_point = (-low / scale).round().clamp(0, 255).to(torch.uint8)
    return quantized(wide, scale, zero_point, find_format("uint8"), None, 0), scale.to(input.dtype), zero_point


def _fake_matmul(
    a: torch.Tensor,
    b: torch.Tensor,
    a_zero_point: torch.Tensor | None = None,
    b_zero_point: torch.Tensor | None = None,
) -> torch.Tensor:
    return torch.matmul(a.float(), b.float()).to(torch.int32)


def _fake_requantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str = "int8",
) -> torch.Tensor:
    return torch.empty_like(input, dtype=find_format(dtype).storage)


def _fake_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    input_zero_point: torch.Tensor | None = None,
    weight_zero_point: torch.Tensor | None = None,
    *,
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
) -> torch.Tensor:
    dims = weight.dim() - 2
    sizes = []
    for i in range(dims):
        padded = input.shape[2 + i] + (padding[i] + padding[dims + i] if padding else 0)
        extent = (weight.shape[2 + i] - 1) * (dilation[i] if dilation else 1) + 1
        sizes.append((padded - extent) // (stride[i] if stride else 1) + 1)
    return input.new_empty((input.shape[0], weight.shape[0], *sizes), dtype=torch.int32)


def _fake_dynamic(input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.empty_like(input, dtype=torch.uint8), input.new_empty(()), input.new_empty((), dtype=torch.uint8)


register_kernel("matmul_integer", matmul_integer, _fake_matmul)
register_kernel("conv_integer", conv_integer, _fake_conv)
register_kernel("requantize", requantize, _fake_requantize)
register_kernel("dynamic_quantize", dynamic_quantize, _fake_dynamic)
