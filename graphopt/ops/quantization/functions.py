"""Quantization for callers: the same operators with dtypes given in any form."""

from __future__ import annotations

import torch

from graphopt.ir import DType
from graphopt.ops.quantization.formats import find_format


def quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str | torch.dtype | DType = "int8",
    axis: int | None = None,
    block_size: int = 0,
) -> torch.Tensor:
    """Return q = saturate(round(x / scale) + zero_point), rounding ties to even.

    x: floating point, any shape. dtype: int2 … int8, int16, int32, uint2 … uint8, uint16, float8_e4m3fn, float8_e5m2
    (their fnuz forms, float6_e2m3, float6_e3m2 and float4_e2m1, too). scale, zero_point: one number; or along `axis`
    one for each index; or with `block_size` one for each block of so many neighbours along the axis, in a tensor of
    x's rank. Without a zero point the numbers are symmetric about 0.

    The result has the dtype that stores the format: an integer of fewer than 8 bits lies in a byte of its own (int4 as
    int8 in [-8, 7]), a float of fewer than 8 bits in a float8_e4m3fn. ONNX files hold them packed. NaN becomes the
    least integer, as in ONNX Runtime.

    Raises:
        UnknownNameError: no such format.
        ValueError: a scale or zero point of another shape.

    >>> quantize(torch.tensor([-1.0, 0.05, 0.25, 9.0]), torch.tensor(0.1))
    tensor([-10,   0,   2,  90], dtype=torch.int8)
    """
    result: torch.Tensor = torch.ops.graphopt.quantize(x, scale, zero_point, find_format(dtype).name, axis, block_size)
    return result


def dequantize(
    q: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str | torch.dtype | DType | None = None,
    axis: int | None = None,
    block_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return (q − zero_point) · scale, in `output_dtype`, by default that of the scale.

    dtype: the format of q, by default that of its dtype; name formats of fewer than 8 bits, so that files can pack
    them. The rest is as in `quantize`. It differentiates with respect to the scale.

    Raises:
        UnknownNameError: no such format.
        ValueError: a scale or zero point of another shape, or a format that is stored otherwise.

    >>> dequantize(torch.tensor([-10, 90], dtype=torch.int8), torch.tensor(0.5))
    tensor([-5., 45.])
    """
    format_ = find_format(q.dtype if dtype is None else dtype)
    result: torch.Tensor = torch.ops.graphopt.dequantize(
        q, scale, zero_point, format_.name, axis, block_size, output_dtype
    )
    return result


def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str | torch.dtype | DType = "int8",
    axis: int | None = None,
    block_size: int = 0,
) -> torch.Tensor:
    """Return dequantize(quantize(x)) in x's dtype: the number that the quantized one stands for.

    The derivative is straight through: by x it is 1 where x does not saturate and 0 elsewhere, by the scale that of
    learned step size quantization (1902.08153). Arguments are those of `quantize`.

    >>> fake_quantize(torch.tensor([0.26, 99.0]), torch.tensor(0.5))
    tensor([ 0.5000, 63.5000])
    """
    result: torch.Tensor = torch.ops.graphopt.fake_quantize(
        x, scale, zero_point, find_format(dtype).name, axis, block_size
    )
    return result
