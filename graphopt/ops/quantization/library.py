"""`torch.ops.graphopt.*`: quantization registered with PyTorch, so that FX modules run, export and differentiate.

The derivative of rounding is taken to be 1 (straight through). So for y = D(Q(x)), with r = x / scale:

    ∂y/∂x     = 1 where Q does not saturate, else 0
    ∂y/∂scale = round(r) − r where Q does not saturate, else (bound − zero_point)          (learned step size)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from graphopt.ops.quantization.arithmetic import dequantized, inside, quantized, spread
from graphopt.ops.quantization.formats import Format, find_format

LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
_COMMON = 'Tensor input, Tensor scale, Tensor? zero_point=None, str dtype="int8", int? axis=None, int block_size=0'
LIBRARY.define(f"quantize({_COMMON}, bool saturate=True) -> Tensor")
LIBRARY.define(f"dequantize({_COMMON}, ScalarType? output_dtype=None) -> Tensor")
LIBRARY.define(f"fake_quantize({_COMMON}) -> Tensor")


def register_kernel(name: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Give an operator of the library its kernel for every device, and the one for tensors without elements."""
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"graphopt::{name}", fake, lib=LIBRARY)


def _quantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str = "int8",
    axis: int | None = None,
    block_size: int = 0,
    saturate: bool = True,
) -> torch.Tensor:
    return quantized(input, scale, zero_point, find_format(dtype), axis, block_size, saturate)


def _dequantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str = "int8",
    axis: int | None = None,
    block_size: int = 0,
    output_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    if input.dtype is not find_format(dtype).storage:
        raise ValueError(f"{dtype} numbers are stored as {find_format(dtype).storage}, not {input.dtype}")
    return dequantized(input, scale, zero_point, axis, block_size, output_dtype)


def _fake_quantize(
    input: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    dtype: str = "int8",
    axis: int | None = None,
    block_size: int = 0,
) -> torch.Tensor:
    q = quantized(input, scale, zero_point, find_format(dtype), axis, block_size)
    return dequantized(q, scale, zero_point, axis, block_size, input.dtype)


def _fake_kernel_of_quantize(input: torch.Tensor, scale: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    dtype = args[1] if len(args) > 1 else kwargs.get("dtype", "int8")
    return torch.empty_like(input, dtype=find_format(dtype).storage)


def _fake_kernel_of_dequantize(
    input: torch.Tensor, scale: torch.Tensor, *args: Any, output_dtype: torch.dtype | None = None, **kwargs: Any
) -> torch.Tensor:
    given = args[4] if len(args) > 4 else output_dtype
    return torch.empty_like(input, dtype=given or scale.dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, scale, zero_point, dtype, axis, block_size = inputs
    ctx.save_for_backward(x, scale, zero_point)
    ctx.options = find_format(dtype), axis, block_size


def _straight_through(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    x, scale, zero_point = ctx.saved_tensors
    format_, axis, block_size = ctx.options
    ratio, kept = inside(x, scale, zero_point, format_, axis, block_size)
    by_input = gradient * kept if ctx.needs_input_grad[0] else None
    by_scale = None
    if ctx.needs_input_grad[1]:
        step = _step_derivative(ratio, kept, zero_point, format_, axis, block_size)
        by_scale = _gathered(gradient.to(step.dtype) * step, scale, axis, block_size)
    return by_input, by_scale, None, None, None, None


def _step_derivative(
    ratio: torch.Tensor,
    kept: torch.Tensor,
    zero_point: torch.Tensor | None,
    format_: Format,
    axis: int | None,
    block_size: int,
) -> torch.Tensor:
    offset: torch.Tensor | float = 0.0
    if zero_point is not None:
        offset = spread(zero_point, ratio.shape, axis, block_size).to(ratio.dtype)
    one = torch.ones((), dtype=ratio.dtype, device=ratio.device)
    nearest = quantized(ratio, one, None, format_, None, 0).to(ratio.dtype) if format_.is_float else ratio.round()
    bound = torch.where(ratio > 0, format_.high, format_.low) - offset
    return torch.where(kept, nearest - ratio, bound.to(ratio.dtype))


def _remember_stored(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    q, scale, zero_point, _, axis, block_size, _ = inputs
    ctx.save_for_backward(q, scale, zero_point)
    ctx.options = axis, block_size


def _by_scale_alone(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
    q, scale, zero_point = ctx.saved_tensors
    axis, block_size = ctx.options
    by_scale = None
    if ctx.needs_input_grad[1]:
        one = torch.ones((), dtype=gradient.dtype, device=gradient.device)
        offset = None if zero_point is None else spread(zero_point, q.shape, axis, block_size).expand(q.shape)
        number = dequantized(q, one, None, None, 0) - (0 if offset is None else offset.to(gradient.dtype))
        by_scale = _gathered(gradient * number, scale, axis, block_size)
    return None, by_scale, None, None, None, None, None


def _gathered(per_element: torch.Tensor, scale: torch.Tensor, axis: int | None, block_size: int) -> torch.Tensor:
    """Sum over the elements that each number of the scale stands for."""
    with torch.enable_grad():
        leaf = scale.detach().to(per_element.dtype).requires_grad_()
        everywhere = spread(leaf, per_element.shape, axis, block_size).expand(per_element.shape)
        (total,) = torch.autograd.grad(everywhere, leaf, per_element)
    return total.to(scale.dtype)


def _fake_kernel_of_fake_quantize(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return torch.empty_like(input)


register_kernel("quantize", _quantize, _fake_kernel_of_quantize)
register_kernel("dequantize", _dequantize, _fake_kernel_of_dequantize)
register_kernel("fake_quantize", _fake_quantize, _fake_kernel_of_fake_quantize)
torch.library.register_autograd("graphopt::fake_quantize", _straight_through, setup_context=_remember, lib=LIBRARY)
torch.library.register_autograd("graphopt::dequantize", _by_scale_alone, setup_context=_remember_stored, lib=LIBRARY)
