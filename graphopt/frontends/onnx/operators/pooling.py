"""Pooling."""

from __future__ import annotations

from typing import Any

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.windows import interleaved, padding
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import ceildiv, product
from graphopt.ir.dims import Dim


@translates("GlobalAveragePool")
def global_average_pool(a: Application) -> Value:
    """The mean over all spatial dims."""
    return a.emit("aten.mean.dim", a[0], list(range(2, a.type(0).rank)), True)


@translates("GlobalMaxPool")
def global_max_pool(a: Application) -> Value:
    """The maximum over all spatial dims."""
    return a.emit("aten.amax", a[0], list(range(2, a.type(0).rank)), True)


@translates("GlobalLpPool")
def global_lp_pool(a: Application) -> Value:
    """(Σ |x|^p)^(1/p) over all spatial dims."""
    return a.emit("aten.linalg_vector_norm", a[0], a.attr("p", 2), list(range(2, a.type(0).rank)), True)


def _window(a: Application) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, and the padding before and after; the latter grown where `ceil_mode` rounds up."""
    kernel = list(a.attr("kernel_shape"))
    rank = len(kernel)
    if not 1 <= rank <= 3:
        raise Declined(f"{a.name} over {rank} dims")
    strides, dilations = list(a.attr("strides") or [1] * rank), list(a.attr("dilations") or [1] * rank)
    before, after = padding(a, list(a.type(0).shape[2:]), kernel, strides, dilations)
    return kernel, strides, dilations, before, after


def _rounded_up(a: Application, window: tuple[list[int], ...]) -> list[int]:
    """How much further each dim must be padded at its end for the last, partial window of `ceil_mode`.

    A window that would start in the padding after the dim is left out.
    """
    kernel, strides, dilations, before, after = window
    sizes = a.type(0).shape[2:]
    if not a.attr("ceil_mode", 0):
        return [0] * len(kernel)
    grown = []
    for size, k, stride, dilation, low, high in zip(sizes, kernel, strides, dilations, before, after):
        extent = (k - 1) * dilation + 1
        outputs: Dim = ceildiv(size + low + high - extent, stride) + 1
        if not isinstance(outputs, int) or not isinstance(size, int):
            raise Declined("ceil_mode on a dim whose size is not known")
        if (outputs - 1) * stride >= size + low:
            outputs -= 1
        grown.append(max((outputs - 1) * stride + extent - (size + low + high), 0))
    return grown


@translates("MaxPool")
def max_pool(a: Application) -> Any:
    """The maximum of each window, and its index in the tensor, where asked."""
    window = _window(a)
    kernel, strides, dilations, before, after = window
    rank, x = len(kernel), a[0]
    after = [high + more for high, more in zip(after, _rounded_up(a, window))]
    dtype = tensor_type(x).dtype
    if dtype.is_integer:
        x = a.cast(x, DType.F32)
    plain = before == after and all(2 * b <= k for b, k in zip(before, kernel))
    if not plain:
        x = a.emit("aten.constant_pad_nd", x, interleaved(before, after), float("-inf"))
    pads = before if plain else [0] * rank
    if not a.uses(1):
        return a.cast(a.emit(f"aten.max_pool{rank}d", x, kernel, strides, pads, dilations), dtype)
    if not plain or a.attr("storage_order", 0):
        raise Declined("indices of the maxima with uneven padding, or in column-major order")
    name = "aten.max_pool1d_with_indices" if rank == 1 else f"aten.max_pool{rank}d_with_indices"
    values, indices = a.emit_all(name, x, kernel, strides, pads, dilations)
    return [a.cast(values, dtype), _global_indices(a, indices)]


def _global_indices(a: Application, indices: Value) -> Value:
    """Indices within a plane as indices within the whole tensor."""
    n, c, *spatial = a.type(0).shape
    plane = product(spatial)
    offsets = a.emit("aten.mul.Scalar", a.emit("aten.arange", n * c, dtype=DType.I64), plane)
    return a.emit("aten.add.Tensor", indices, a.emit("aten.reshape", offsets, (n, c, *[1] * len(spatial))))


@translates("AveragePool")
def average_pool(a: Application) -> Value:
    """The mean of each window; padding counts if `count_include_pad`, what `ceil_mode` adds never does."""
    window = _window(a)
    kernel, strides, dilations, before, after = window
    rank, x, include = len(kernel), a[0], bool(a.attr("count_include_pad", 0))
    grown = _rounded_up(a, window)
    dilated = any(d != 1 for d in dilations)
    plain = before == after and not any(grown) and not dilated and all(2 * b <= k for b, k in zip(before, kernel))
    if plain:
        extra = {} if rank == 1 else {"divisor_override": None}
        return a.emit(f"aten.avg_pool{rank}d", x, kernel, strides, before, False, include, **extra)
    if dilated:
        raise Declined("average pooling with dilation")
    after = [high + more for high, more in zip(after, grown)]
    ones = a.emit("aten.ones_like", a.emit("aten.slice.Tensor", a.emit("aten.slice.Tensor", x, 0, 0, 1), 1, 0, 1))
    counted = [0] * rank
    if include:
        counted = [high - more for high, more in zip(after, grown)]
        ones = a.emit("aten.constant_pad_nd", ones, interleaved(before, counted), 1.0)
        ones = a.emit("aten.constant_pad_nd", ones, interleaved([0] * rank, grown), 0.0)
    else:
        ones = a.emit("aten.constant_pad_nd", ones, interleaved(before, after), 0.0)
    padded = a.emit("aten.constant_pad_nd", x, interleaved(before, after), 0.0)
    means = [a.emit(f"aten.avg_pool{rank}d", v, kernel, strides, [0] * rank) for v in (padded, ones)]
    return a.emit("aten.div.Tensor", means[0], means[1])


@translates("LpPool")
def lp_pool(a: Application) -> Value:
    """(Σ |x|^p)^(1/p) of each window: p-th powers, pooled as a sum."""
    window = _window(a)
    kernel, strides, dilations, before, after = window
    if any(d != 1 for d in dilations):
        raise Declined("Lp pooling with dilation")
    after = [high + more for high, more in zip(after, _rounded_up(a, window))]
    p = float(a.attr("p", 2))
    powers = a.emit("aten.pow.Tensor_Scalar", a.emit("aten.abs", a[0]), p)
    padded = a.emit("aten.constant_pad_nd", powers, interleaved(before, after), 0.0)
    rank, volume = len(kernel), 1
    for k in kernel:
        volume *= k
    total = a.emit(
        "aten.mul.Scalar", a.emit(f"aten.avg_pool{rank}d", padded, kernel, strides, [0] * rank), float(volume)
    )
    return a.emit("aten.pow.Tensor_Scalar", total, 1 / p)
