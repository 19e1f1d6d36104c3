"""Whole layers on integers, with the scaling behind them, as PyTorch's oneDNN kernels run them on x86:

    integer_linear(x, W, s_w, b)  = out((x − x₀) Wᵀ · s_x s_w + b)
    integer_conv(x, W, s_w, b)    = out((x − x₀) ∗ W · s_x s_w + b)

out cuts at `low` and `high`, and quantizes where `output_dtype` is "int8" or "uint8". Products and sums are exact in 32
bits; the scaling is in single precision, so an output differs from one that was rounded otherwise by one step at most.

Kernels read weights packed. A weight is packed at its first use, and what was packed lives as long as the weight.
Without oneDNN, or on another device, the same is computed by `matmul_integer` and `conv_integer`.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from graphopt.ops.quantization.arithmetic import quantized
from graphopt.ops.quantization.formats import find_format
from graphopt.ops.quantization.integer import conv_integer, matmul_integer
from graphopt.ops.quantization.library import LIBRARY, register_kernel

_OUT = 'float scale=1.0, int zero_point=0, float? low=None, float? high=None, str output_dtype="", '
_OUT += "float output_scale=1.0, int output_zero_point=0"
LIBRARY.define(
    f"integer_linear(Tensor input, Tensor weight, Tensor weight_scale, Tensor? bias=None, *, {_OUT}) -> Tensor"
)
LIBRARY.define(
    "integer_conv(Tensor input, Tensor weight, Tensor weight_scale, Tensor? bias=None, *, int[] stride, int[] padding, "
    f"int[] dilation, int groups=1, {_OUT}) -> Tensor"
)
_RAW = {"": torch.float32, "int8": torch.int8, "uint8": torch.uint8}
_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()
_lock = threading.Lock()


@lru_cache(maxsize=1)
def lacking_kernels() -> str | None:
    """Why PyTorch has no integer kernels here, or None."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"PyTorch has integer kernels of layers for x86, and this machine is {platform.machine()}"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qlinear_pointwise"):
        return "this PyTorch is built without oneDNN, which has the integer kernels"
    return None


def integer_linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    scale: float = 1.0,
    zero_point: int = 0,
    low: float | None = None,
    high: float | None = None,
    output_dtype: str = "",
    output_scale: float = 1.0,
    output_zero_point: int = 0,
) -> torch.Tensor:
    """input [*, K] of 8 bits; weight int8 [N, K]; weight_scale float32, one or N; bias float32 [N]."""
    out = low, high, output_dtype, output_scale, output_zero_point
    if not _runs(input):
        zero = torch.full((), zero_point, dtype=torch.int32, device=input.device)
        sums = matmul_integer(input, weight.t(), zero)
        return _out(_scaled(sums, scale * weight_scale, bias, ()), *out)
    packed = _pack(weight, (), torch.ops.onednn.qlinear_prepack, None)
    y = torch.ops.onednn.qlinear_pointwise.default(
        input, scale, zero_point, packed, weight_scale.reshape(-1), _zeros(weight_scale.numel()), bias,
        *_result(output_dtype, output_scale, output_zero_point), *_post(low, high),
    )  # fmt: skip
    return _cut(y, *out)


def integer_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    weight_scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    scale: float = 1.0,
    zero_point: int = 0,
    low: float | None = None,
    high: float | None = None,
    output_dtype: str = "",
    output_scale: float = 1.0,
    output_zero_point: int = 0,
) -> torch.Tensor:
    """input [N, C, *] of 8 bits; weight int8 [O, C/groups, *]; weight_scale float32, one or O; bias float32 [O]."""
    out = low, high, output_dtype, output_scale, output_zero_point
    window = list(stride), list(padding), list(dilation), groups
    if not _runs(input):
        zero = torch.full((), zero_point, dtype=torch.int32, device=input.device)
        sums = conv_integer(
            input, weight, None, zero, stride=stride, padding=[*padding, *padding], dilation=dilation, groups=groups
        )
        return _out(_scaled(sums, scale * weight_scale, bias, (1,) * (weight.dim() - 2)), *out)
    if input.dtype is torch.int8:  # the kernels read bytes without sign
        input, zero_point = input.view(torch.uint8) ^ 128, zero_point + 128
    scales = weight_scale.reshape(-1)
    key = (scale, zero_point, *map(tuple, window[:3]), groups)
    packed = _pack(weight, key, torch.ops.onednn.qconv_prepack, scales, scale, zero_point, *window, None)
    y = torch.ops.onednn.qconv_pointwise(
        input, scale, zero_point, packed, scales, _zeros(scales.numel()), bias, *window,
        *_result(output_dtype, output_scale, output_zero_point), *_post(low, high),
    )  # fmt: skip
    return _cut(y, *out)


def _runs(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > 0 and lacking_kernels() is None


def _post(low: float | None, high: float | None) -> tuple[str, list[Any], str]:
    """What the kernels do with sums by themselves: a ReLU alone."""
    return ("relu" if low == 0 and high is None else "none"), [], ""


def _result(dtype: str, scale: float, zero_point: int) -> tuple[float, int, torch.dtype]:
    """How the kernels round: floats have neither scale nor zero point."""
    return (scale, zero_point, _RAW[dtype]) if dtype else (1.0, 0, _RAW[dtype])


def _pack(weight: torch.Tensor, key: tuple[Any, ...], pack: Callable[..., torch.Tensor], *how: Any) -> torch.Tensor:
    """A weight as a kernel reads it. key: what besides it decides the form."""
    key = (*key, None if weight.is_inference() else weight._version)
    with _lock:
        found = _packed.get(weight)
        if found is not None and found[0] == key:
            return found[1]
    packed = pack(weight.contiguous(), *how)
    with _lock:
        _packed[weight] = key, packed
    return packed


@lru_cache(maxsize=64)
def _zeros(count: int) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.zeros(count, dtype=torch.int32)


def _scaled(
    sums: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, behind: tuple[int, ...]
) -> torch.Tensor:
    """behind: the dims behind the channels, each 1."""
    y = sums.float() * scale.reshape(-1, *behind)
    return y if bias is None else y + bias.reshape(-1, *behind)


def _out(
    y: torch.Tensor, low: float | None, high: float | None, dtype: str, scale: float, zero_point: int
) -> torch.Tensor:
    """Cut and quantize sums in floating point."""
    if low is not None or high is not None:
        y = y.clamp(low, high)
    if not dtype:
        return y
    zero = torch.full((), zero_point, dtype=_RAW[dtype], device=y.device)
    return quantized(y, torch.full((), scale, device=y.device), zero, find_format(dtype), None, 0)


def _cut(
    y: torch.Tensor, low: float | None, high: float | None, dtype: str, scale: float, zero_point: int
) -> torch.Tensor:
    """Cut what the kernel gave, where it did not: quantization is monotone, so that quantized bounds do it."""
    if (low is None and high is None) or (low == 0 and high is None):
        return y
    if dtype:
        low, high = (None if x is None else _step(x, dtype, scale, zero_point) for x in (low, high))
    return y.clamp_(low, high)


def _step(x: float, dtype: str, scale: float, zero_point: int) -> int:
    """The integer that a number is quantized to."""
    return int(_out(torch.tensor(x), None, None, dtype, scale, zero_point))


def _fake_linear(input: torch.Tensor, weight: torch.Tensor, *_: Any, output_dtype: str = "", **__: Any) -> torch.Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]), dtype=_RAW[output_dtype])


def _fake_conv(
    input: torch.Tensor,
    weight: torch.Tensor,
    *_: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_dtype: str = "",
    **__: Any,
) -> torch.Tensor:
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    ]
    y = input.new_empty((input.shape[0], weight.shape[0], *sizes), dtype=_RAW[output_dtype])
    return y.contiguous(memory_format=torch.channels_last) if y.dim() == 4 else y


register_kernel("integer_linear", integer_linear, _fake_linear)
register_kernel("integer_conv", integer_conv, _fake_conv)
