"""Convolutions and transposed convolutions, in one to three spatial dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import TensorType
from graphopt.ir.dims import Dim, divisible, exact_div, floordiv, less
from graphopt.ops.inference.shapes import pair, require_equal
from graphopt.ops.inference.table import Mismatch, Result, rule


@rule("conv1d conv2d conv3d")
def convolve(
    x: TensorType,
    weight: TensorType,
    bias: TensorType | None = None,
    stride: Sequence[Dim] = (1,),
    padding: Sequence[Dim] = (0,),
    dilation: Sequence[Dim] = (1,),
    groups: Dim = 1,
) -> Result:
    """[N, C, …] with weight [O, C/groups, …]: each size is ⌊(L + 2p − d(k − 1) − 1)/s⌋ + 1."""
    spatial = _spatial(x, weight, bias, weight.shape[0], groups)
    if spatial is None:
        return None
    channels = x.shape[-len(spatial) - 1]
    require_equal(weight.shape[1] * groups, channels, "weight and input differ in channels")
    if divisible(weight.shape[0], groups) is False:
        raise Mismatch(f"{weight.shape[0]} output channels are no multiple of {groups} groups")
    n = len(spatial)
    sizes = [
        window_size(size, k, s, p, d)
        for size, k, s, p, d in zip(spatial, weight.shape[2:], pair(stride, n), pair(padding, n), pair(dilation, n))
    ]
    return x.with_shape((*x.shape[: -n - 1], weight.shape[0], *sizes))


def window_size(size: Dim, kernel: Dim, stride: Dim, padding: Dim, dilation: Dim) -> Dim:
    """How many windows fit: ⌊(L + 2p − d(k − 1) − 1)/s⌋ + 1.

    Raises:
        Mismatch: the kernel is known not to fit, or the numbers make no window.
    """
    if less(stride, 1) is True or less(padding, 0) is True or less(dilation, 1) is True:
        raise Mismatch(f"stride {stride}, padding {padding}, dilation {dilation} make no convolution")
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if less(room, 0) is True:
        raise Mismatch(f"the kernel spans {dilation * (kernel - 1) + 1}, the padded input {size + 2 * padding}")
    return floordiv(room, stride) + 1


def _spatial(
    x: TensorType, weight: TensorType, bias: TensorType | None, outputs: Dim, groups: Dim
) -> tuple[Dim, ...] | None:
    """The spatial sizes of [N, C, …] or [C, …]; None if the dtypes or ranks need PyTorch's judgement."""
    n = len(weight.shape) - 2
    if n < 1 or less(groups, 1) is not False:
        return None
    if len(x.shape) not in (n + 1, n + 2):
        raise Mismatch(f"an input of rank {len(x.shape)} does not fit a kernel of {n} spatial dims")
    if any(t is not None and t.dtype is not x.dtype for t in (weight, bias)) or not x.dtype.is_floating:
        return None
    if any(d == 0 for d in (*weight.shape, *x.shape[-n:])):
        return None
    if bias is not None:
        if len(bias.shape) != 1:
            raise Mismatch(f"the bias has rank {len(bias.shape)}")
        require_equal(bias.shape[0], outputs, "the bias does not fit the output channels")
    return x.shape[-n:]


@rule("conv1d.padding conv2d.padding conv3d.padding")
def convolve_named(
    x: TensorType,
    weight: TensorType,
    bias: TensorType | None = None,
    stride: Sequence[Dim] = (1,),
    padding: str = "valid",
    dilation: Sequence[Dim] = (1,),
    groups: Dim = 1,
) -> Result:
    """Padding by name: `valid` is none, `same` keeps the sizes and needs stride 1."""
    result: Any = convolve(x, weight, bias, (1,), _same_padding(weight, dilation, padding), dilation, groups)
    if padding == "valid":
        return convolve(x, weight, bias, stride, (0,), dilation, groups)
    if padding != "same" or any(s != 1 for s in stride):
        raise Mismatch(f"padding {padding!r} is not possible with stride {tuple(stride)}")
    if result is None:
        return None
    n = len(weight.shape) - 2
    return x.with_shape((*result.shape[:-n], *x.shape[-n:]))


def _same_padding(weight: TensorType, dilation: Sequence[Dim], padding: str) -> tuple[Dim, ...]:
    """Enough for `same`: half of the kernel's span, rounded up."""
    if padding != "same":
        return (0,)
    n = len(weight.shape) - 2
    return tuple([d * k for k, d in zip(weight.shape[2:], pair(dilation, n))])


@rule("conv_transpose1d conv_transpose2d.input conv_transpose3d.input")
def transposed(
    x: TensorType,
    weight: TensorType,
    bias: TensorType | None = None,
    stride: Sequence[Dim] = (1,),
    padding: Sequence[Dim] = (0,),
    output_padding: Sequence[Dim] = (0,),
    groups: Dim = 1,
    dilation: Sequence[Dim] = (1,),
) -> Result:
    """[N, C, …] with weight [C, O/groups, …]: each size is (L − 1)s − 2p + d(k − 1) + q + 1."""
    outputs = weight.shape[1] * groups if len(weight.shape) > 1 else 1
    spatial = _spatial(x, weight, bias, outputs, groups)
    if spatial is None:
        return None
    n = len(spatial)
    require_equal(weight.shape[0], x.shape[-n - 1], "weight and input differ in channels")
    if exact_div(weight.shape[0], groups) is None:
        return None
    sizes: list[Dim] = []
    options = (pair(stride, n), pair(padding, n), pair(dilation, n), pair(output_padding, n))
    for size, k, s, p, d, q in zip(spatial, weight.shape[2:], *options):
        if any(less(value, low) is not False for value, low in ((s, 1), (p, 0), (d, 1), (q, 0))):
            return None
        if less(q, s) is not True and less(q, d) is not True:
            return None  # PyTorch says which of its limits it breaks
        sizes.append((size - 1) * s - 2 * p + d * (k - 1) + q + 1)
        if less(sizes[-1], 1) is True:
            return None
    return x.with_shape((*x.shape[: -n - 1], outputs, *sizes))


@rule("convolution")
def convolution(
    x: TensorType,
    weight: TensorType,
    bias: TensorType | None,
    stride: Sequence[Dim],
    padding: Sequence[Dim],
    dilation: Sequence[Dim],
    is_transposed: bool,
    output_padding: Sequence[Dim],
    groups: Dim,
) -> Result:
    """Either kind, by attributes; the batch dim is required."""
    if len(x.shape) != len(weight.shape) or any(less(q, 0) is True for q in output_padding):
        return None
    if is_transposed:
        return transposed(x, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolve(x, weight, bias, stride, padding, dilation, groups)
