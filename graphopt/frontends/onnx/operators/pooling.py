"""Pooling: whole operators where padding and rounding are PyTorch's, else of an input that is padded first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.windows import interleaved, is_plain, padding
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import ceildiv, dim_max, dim_min, product
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


@dataclass(frozen=True)
class Window:
    """Sliding windows over the last dims: sizes, steps, and the padding before and after each dim."""

    a: Application
    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[Dim]
    after: list[Dim]

    @staticmethod
    def of(a: Application) -> Window:
        """The windows of a pooling operator."""
        kernel = list(a.attr("kernel_shape"))
        rank = len(kernel)
        if not 1 <= rank <= 3:
            raise Declined(f"{a.name} over {rank} dims")
        strides, dilations = (list(a.attr(name) or [1] * rank) for name in ("strides", "dilations"))
        if a.attr("auto_pad", "NOTSET").startswith("SAME") and any(
            d > 1 or k < s for k, s, d in zip(kernel, strides, dilations)
        ):
            raise Declined("auto_pad SAME of windows that skip elements, which ONNX Runtime pads in a way of its own")
        return Window(a, kernel, strides, dilations, *padding(a, a.type(0).shape[2:], kernel, strides, dilations))

    @property
    def rank(self) -> int:
        """How many dims the windows have."""
        return len(self.kernel)

    @property
    def sizes(self) -> tuple[Dim, ...]:
        """The sizes of these dims."""
        return self.a.type(0).shape[2:]

    @property
    def rounds_up(self) -> bool:
        """True if the last window may be a partial one."""
        return bool(self.a.attr("ceil_mode", 0))

    @property
    def is_dilated(self) -> bool:
        """True if a window skips elements."""
        return any(d != 1 for d in self.dilations)

    @property
    def is_plain(self) -> bool:
        """True if PyTorch's pooling pads like that: both sides alike, at most by half a window."""
        return is_plain(self.before, self.after) and all(2 * b <= k for b, k in zip(self.before, self.kernel))  # type: ignore[operator]

    @cached_property
    def grown(self) -> list[Dim]:
        """How much further each dim must be padded at its end for the last, partial window.

        A window that would start in the padding after the dim is left out.
        """
        if not self.rounds_up:
            return [0] * self.rank
        result = []
        for size, k, s, d, low, high in zip(
            self.sizes, self.kernel, self.strides, self.dilations, self.before, self.after
        ):
            extent, padded = (k - 1) * d + 1, size + low + high
            outputs = dim_min(ceildiv(padded - extent, s) + 1, ceildiv(size + low, s))
            result.append(dim_max((outputs - 1) * s + extent - padded, 0))
        return result

    def padded(self, x: Value, fill: float) -> Value:
        """x with all its padding."""
        ends = [high + more for high, more in zip(self.after, self.grown)]
        amounts = interleaved(self.before, ends)
        return self.a.emit("aten.constant_pad_nd", x, amounts, fill) if any(n != 0 for n in amounts) else x

    def sums(self, padded: Value) -> Value:
        """The sum of each window of a padded tensor; of one that skips elements, as a convolution with ones."""
        a = self.a
        if self.is_dilated:
            a.compose()
        else:
            none = [0] * self.rank
            means = a.emit(f"aten.avg_pool{self.rank}d", padded, self.kernel, self.strides, none)
            return a.emit("aten.mul.Scalar", means, float(prod(self.kernel)))
        batch, channels, *sizes = tensor_type(padded).shape
        single = a.reshape(padded, (batch * channels, 1, *sizes))
        ones = a.constant(torch.ones(1, 1, *self.kernel, dtype=tensor_type(padded).dtype.torch))
        found = a.emit(f"aten.conv{self.rank}d", single, ones, None, self.strides, [0] * self.rank, self.dilations, 1)
        return a.reshape(found, (batch, channels, *tensor_type(found).shape[2:]))


@translates("MaxPool")
def max_pool(a: Application) -> Any:
    """The maximum of each window, and its index in the tensor, where asked."""
    window, x = Window.of(a), a[0]
    dtype, rank = tensor_type(x).dtype, window.rank
    if dtype.is_integer:
        x = a.cast(x, DType.F32)
    pads, ceil = window.before, window.rounds_up
    if not window.is_plain:
        x, pads, ceil = window.padded(x, float("-inf")), [0] * rank, False
    options = (x, window.kernel, window.strides, pads, window.dilations, ceil)
    if not a.uses(1):
        return a.cast(a.emit(f"aten.max_pool{rank}d", *options), dtype)
    values, indices = a.emit_all(f"aten.max_pool{rank}d_with_indices", *options)
    before: list[Dim] = [0] * rank if window.is_plain else window.before
    return [a.cast(values, dtype), _global_indices(a, indices, tensor_type(x).shape[2:], before)]


def _global_indices(a: Application, indices: Value, padded: tuple[Dim, ...], before: list[Dim]) -> Value:
    """Indices within a padded plane as indices within the whole tensor, whose planes may be column-major."""
    n, c, *spatial = a.type(0).shape
    rank, columns = len(spatial), bool(a.attr("storage_order", 0))
    if columns or tuple(spatial) != padded:
        rest, place = indices, None
        for dim in reversed(range(rank)):
            own = rest if dim == 0 else a.emit("aten.remainder.Scalar", rest, padded[dim])
            rest = rest if dim == 0 else a.emit("aten.div.Scalar_mode", rest, padded[dim], rounding_mode="floor")
            step = product(spatial[:dim] if columns else spatial[dim + 1 :])
            part = a.emit("aten.mul.Scalar", a.emit("aten.sub.Scalar", own, before[dim]), step)
            place = part if place is None else a.emit("aten.add.Tensor", place, part)
        assert place is not None
        indices = place
    offsets = a.emit("aten.mul.Scalar", a.emit("aten.arange", n * c, dtype=DType.I64), product(spatial))
    return a.emit("aten.add.Tensor", indices, a.reshape(offsets, (n, c, *[1] * rank)))


@translates("AveragePool")
def average_pool(a: Application) -> Value:
    """The mean of each window; padding counts if `count_include_pad`, what `ceil_mode` adds never does."""
    window, x, include = Window.of(a), a[0], bool(a.attr("count_include_pad", 0))
    rank = window.rank
    if window.is_plain and not window.is_dilated:
        extra = {} if rank == 1 else {"divisor_override": None}
        options = (window.kernel, window.strides, window.before, window.rounds_up, include)
        return a.emit(f"aten.avg_pool{rank}d", x, *options, **extra)
    ones = a.emit("aten.ones_like", a.emit("aten.slice.Tensor", a.emit("aten.slice.Tensor", x, 0, 0, 1), 1, 0, 1))
    if include:
        ones = a.emit("aten.constant_pad_nd", ones, interleaved(window.before, window.after), 1.0)
        counted = a.emit("aten.constant_pad_nd", ones, interleaved([0] * rank, window.grown), 0.0)
    else:
        counted = window.padded(ones, 0.0)
    return a.emit("aten.div.Tensor", window.sums(window.padded(x, 0.0)), window.sums(counted))


@translates("LpPool")
def lp_pool(a: Application) -> Value:
    """(Σ |x|^p)^(1/p) of each window."""
    window, p = Window.of(a), float(a.attr("p", 2))
    powers = a.emit("aten.pow.Tensor_Scalar", a.emit("aten.abs", a[0]), p)
    return a.emit("aten.pow.Tensor_Scalar", window.sums(window.padded(powers, 0.0)), 1 / p)
