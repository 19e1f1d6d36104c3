"""Grouped convolutions in float64.

PyTorch has no fast double-precision kernel for them on the CPU: it runs the groups one by one (a depthwise convolution
of 960 channels of 4×4 takes seconds). Here each tap of the kernel is one product over all groups,

    y[n, g, o, p] = Σ_k Σ_c x[n, g, c, stride·p + dilation·k − padding] · w[g, o, c, k]

which takes milliseconds and differs in the last bit only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch

FEW_GROUPS = 4
"""So many groups are no slower one by one."""


def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """Convolve `x` [N, C, *] with `weight` [O, C/groups, *]. padding: before and after each dim."""
    dims = weight.dim() - 2
    batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
    padded = torch.nn.functional.pad(batched, [p for sides in reversed(padding) for p in sides])
    size = [
        (length - d * (k - 1) - 1) // s + 1
        for length, k, s, d in zip(padded.shape[2:], weight.shape[2:], stride, dilation)
    ]
    inner = padded.unflatten(1, (groups, -1))
    kernel = weight.unflatten(0, (groups, -1))
    result = x.new_zeros(batched.shape[0], groups, kernel.shape[1], *size)
    for tap in product(*map(range, weight.shape[2:])):
        _add_mixed(result, _windows(inner, tap, dilation, size, stride), _tap(kernel, tap), "goc")
    return _finish(result, bias, squeeze=batched is not x)


def transposed_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> torch.Tensor:
    """The adjoint of `convolution`: `x` [N, C, *], `weight` [C, O/groups, *]."""
    dims = weight.dim() - 2
    batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
    length = batched.shape[2:]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + extra
        for n, s, d, k, extra in zip(length, stride, dilation, weight.shape[2:], output_padding)
    ]
    inner = batched.unflatten(1, (groups, -1))
    kernel = weight.unflatten(0, (groups, -1))
    result = x.new_zeros(batched.shape[0], groups, kernel.shape[2], *full)
    for tap in product(*map(range, weight.shape[2:])):
        _add_mixed(_windows(result, tap, dilation, length, stride), inner, _tap(kernel, tap), "gco")
    for axis, (cut, n) in enumerate(zip(padding, full), start=3):
        result = result.narrow(axis, cut, n - 2 * cut)
    return _finish(result, bias, squeeze=batched is not x)


def _windows(
    x: torch.Tensor, tap: Sequence[int], dilation: Sequence[int], size: Sequence[int], stride: Sequence[int]
) -> torch.Tensor:
    """The view of `x` [N, G, C, *] that one tap of the kernel meets, at every position of the kernel."""
    for axis, (k, d, n, s) in enumerate(zip(tap, dilation, size, stride), start=3):
        x = x.narrow(axis, k * d, (n - 1) * s + 1)[(slice(None),) * axis + (slice(None, None, s),)]
    return x


def _tap(kernel: torch.Tensor, tap: Sequence[int]) -> torch.Tensor:
    """The matrices [G, A, B] of one tap of a kernel [G, A, B, *]."""
    for k in tap:
        kernel = kernel.select(3, k)
    return kernel


def _add_mixed(result: torch.Tensor, x: torch.Tensor, tap: torch.Tensor, order: str) -> None:
    """result[n, g, o, …] += Σ_c x[n, g, c, …]·tap[g, o, c]; a plain product where there is one channel a group."""
    if x.shape[2] == 1:
        factor = tap.flatten(1)
        result.addcmul_(x, factor.reshape(1, *factor.shape, *[1] * (x.dim() - 3)))
    else:
        result += torch.einsum(f"ngc...,{order}->ngo...", x, tap)


def _finish(result: torch.Tensor, bias: torch.Tensor | None, *, squeeze: bool) -> torch.Tensor:
    flat = result.flatten(1, 2)
    if bias is not None:
        flat = flat + bias.reshape(-1, *[1] * (flat.dim() - 2))
    return flat.squeeze(0) if squeeze else flat


def _forward(name: str, dims: int) -> Callable[..., torch.Tensor]:
    native = getattr(torch.ops.aten, name).default

    def run(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        strides, paddings, dilations = (_each(v, dims) for v in (stride, padding, dilation))
        if groups <= FEW_GROUPS or x.dtype is not torch.float64:
            return native(x, weight, bias, strides, paddings, dilations, groups)
        return convolution(x, weight, bias, strides, [(p, p) for p in paddings], dilations, groups)

    return run


def _named(name: str, dims: int) -> Callable[..., torch.Tensor]:
    """A convolution whose padding is a word: "valid", or "same" (the odd one goes to the end)."""
    native = getattr(torch.ops.aten, name).padding

    def run(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: Any = None,
        stride: Any = 1,
        padding: str = "valid",
        dilation: Any = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        strides, dilations = _each(stride, dims), _each(dilation, dims)
        if groups <= FEW_GROUPS or x.dtype is not torch.float64:
            return native(x, weight, bias, strides, padding, dilations, groups)
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, weight.shape[2:])]
        return convolution(x, weight, bias, strides, [(t // 2, t - t // 2) for t in total], dilations, groups)

    return run


def _backward(name: str, dims: int) -> Callable[..., torch.Tensor]:
    packet = getattr(torch.ops.aten, name)
    native = packet.default if dims == 1 else packet.input

    def run(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> torch.Tensor:
        strides, paddings, extra, dilations = (_each(v, dims) for v in (stride, padding, output_padding, dilation))
        if groups <= FEW_GROUPS or x.dtype is not torch.float64:
            return native(x, weight, bias, strides, paddings, extra, groups, dilations)
        return transposed_convolution(x, weight, bias, strides, paddings, extra, groups, dilations)

    return run


def _each(value: Any, dims: int) -> list[int]:
    """One number for each dim; a single one stands for all."""
    items = [value] if isinstance(value, int) else list(value)
    return items * dims if len(items) == 1 else items


WIDE_KERNELS: dict[str, Callable[..., Any]] = {
    **{f"aten.conv{d}d": _forward(f"conv{d}d", d) for d in (1, 2, 3)},
    **{f"aten.conv{d}d.padding": _named(f"conv{d}d", d) for d in (1, 2, 3)},
    "aten.conv_transpose1d": _backward("conv_transpose1d", 1),
    **{f"aten.conv_transpose{d}d.input": _backward(f"conv_transpose{d}d", d) for d in (2, 3)},
}
"""What the interpreter runs in float64 in place of an operator, by name. The arguments are the operator's."""
