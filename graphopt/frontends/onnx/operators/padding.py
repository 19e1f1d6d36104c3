"""Padding. Element i of the result along a dim of n elements, of which `low` are padding, shows element

    edge     clamp(i − low, 0, n − 1)
    wrap     (i − low) mod n
    reflect  |((i − low + n − 1) mod 2(n − 1)) − (n − 1)|

PyTorch has the first and the last for the last one to three dims; else the elements are gathered dim by dim.
"""

from __future__ import annotations

import numpy as np
import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.windows import interleaved
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import dim_max
from graphopt.ir.dims import Dim, less

MODES = ("edge", "wrap", "reflect")
LISTED = 1 << 16
"""Up to how many elements a result may have along a dim for their places to be stored; more are computed."""


@translates("Pad")
def pad(a: Application) -> Value:
    """Constant, reflect, edge or wrap; negative amounts crop."""
    x, rank = a[0], a.type(0).rank
    amounts: list[Dim] = list(a.attr("pads", a.attr("paddings")) or a.dims(1))
    axes = [i % rank for i in a.numbers(3)] if a.has(3) else list(range(rank))
    before: list[Dim] = [0] * rank
    after: list[Dim] = [0] * rank
    for axis, low, high in zip(axes, amounts, amounts[len(axes) :]):
        before[axis], after[axis] = low, high
    mode = a.attr("mode", "constant")
    if mode == "constant":
        return _filled(a, x, interleaved(before, after))
    if mode not in MODES:
        raise Declined(f"padding of mode {mode!r}")
    whole = _padded_at_once(a, x, before, after, mode)
    if whole is not None:
        return whole
    for axis, (low, high) in enumerate(zip(before, after)):
        if mode != "edge" and less(low, 0) is not less(high, 0):
            raise Declined(f"a dim that is cropped at one end and padded at the other in mode {mode!r}")
        if (low, high) != (0, 0):
            x = a.emit("aten.index_select", x, axis, _shown(a, tensor_type(x).shape[axis], low, high, mode))
    return x


def _filled(a: Application, x: Value, amounts: list[Dim]) -> Value:
    """Padding by a number, which may be known as the model runs only."""
    dtype = tensor_type(x).dtype
    if a.has(2) and a[2].constant is None:
        padded = a.emit("aten.constant_pad_nd", x, amounts, 0)
        own = a.emit("aten.constant_pad_nd", a.emit("aten.ones_like", x, dtype=DType.BOOL), amounts, 0)
        return a.emit("aten.where.self", own, padded, a.cast(a.reshape(a[2], ()), dtype))
    fill = a.numbers(2)[0] if a.has(2) else a.attr("value", 0.0)
    return a.emit("aten.constant_pad_nd", x, amounts, fill if dtype.is_floating or dtype.is_complex else int(fill))


def _padded_at_once(a: Application, x: Value, before: list[Dim], after: list[Dim], mode: str) -> Value | None:
    """PyTorch's own padding: of the last one to three dims of a tensor with one or two dims before them."""
    op = {"reflect": "aten.reflection_pad", "edge": "aten.replication_pad"}.get(mode)
    shape = tensor_type(x).shape
    first = next((i for i, pair in enumerate(zip(before, after)) if pair != (0, 0)), len(shape))
    dims = max(len(shape) - first, len(shape) - 2)
    if op is None or not tensor_type(x).dtype.is_floating or not 1 <= dims <= 3 or dims == len(shape):
        return None
    for low, high, size in zip(before, after, shape):
        if not isinstance(low, int) or not isinstance(high, int) or min(low, high) < 0:
            return None
        if mode == "reflect" and less(max(low, high), size) is False:
            return None  # reflected more than once
    return a.emit(f"{op}{dims}d", x, interleaved(before, after)[: 2 * dims])


def _shown(a: Application, size: Dim, low: Dim, high: Dim, mode: str) -> Value:
    """Which element of a dim each element of the result shows."""
    if isinstance(size, int) and isinstance(low, int) and isinstance(high, int) and size + low + high <= LISTED:
        places = np.arange(-low, size + high)
        if mode == "edge":
            places = places.clip(0, size - 1)
        elif mode == "wrap":
            places = places % size
        else:
            places = np.abs((places + size - 1) % max(2 * (size - 1), 1) - (size - 1))
        return a.constant(torch.from_numpy(places))
    index = a.emit("aten.arange", size + low + high, dtype=DType.I64)
    if mode == "edge":
        return a.emit("aten.clamp", a.emit("aten.sub.Scalar", index, low), 0, size - 1)
    if mode == "wrap":
        return a.emit("aten.remainder.Scalar", a.emit("aten.sub.Scalar", index, low), size)
    turned = a.emit("aten.sub.Scalar", index, low - size + 1)
    turned = a.emit("aten.remainder.Scalar", turned, dim_max(2 * (size - 1), 1))
    return a.emit("aten.abs", a.emit("aten.sub.Scalar", turned, size - 1))
