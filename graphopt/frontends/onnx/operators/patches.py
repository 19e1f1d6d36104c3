"""Patches of images: Col2Im, MaxUnpool, CenterCropPad."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from graphopt.frontends.onnx.application import Application, Declined, listable, numbers_of, tensor_type, translates
from graphopt.frontends.onnx.operators.windows import interleaved
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import dim_max, floordiv, product
from graphopt.ir.dims import Dim, exact_div


@translates("Col2Im")
def col2im(a: Application) -> Value:
    """The sum of the blocks that stand in the columns, each at its place in the image."""
    image, block = a.dims(1), numbers_of(a.dims(2), "blocks")
    rank = len(block)
    strides, dilations = (list(a.attr(name) or [1] * rank) for name in ("strides", "dilations"))
    pads = list(a.attr("pads") or [0] * (2 * rank))
    before, after = pads[:rank], pads[rank:]
    dtype = a.type(0).dtype
    if dtype is DType.BOOL:
        raise Declined("sums of truth values")
    if rank == 2 and before == after and (dtype.is_floating or dtype.is_complex):
        return a.emit("aten.col2im", a[0], image, block, dilations, before, strides)
    padded = [size + low + high for size, low, high in zip(image, before, after)]
    whole = _added(a, numbers_of(padded, "blocks"), block, strides, dilations)
    return a.emit("aten.constant_pad_nd", whole, interleaved([-p for p in before], [-p for p in after]), 0)


def _added(a: Application, image: list[int], block: list[int], strides: list[int], dilations: list[int]) -> Value:
    """Col2Im onto an image that has its padding: each element of the columns is added where it belongs."""
    a.compose()
    batch, rows, _ = a.type(0).shape
    channels = exact_div(rows, product(block))
    if channels is None:
        raise Declined(f"{rows} rows are not known to be whole blocks of {block}")
    extents = [(k - 1) * d + 1 for k, d in zip(block, dilations)]
    counts = [(size - extent) // s + 1 for size, extent, s in zip(image, extents, strides)]
    listable(math.prod(block) * math.prod(counts), "columns")
    grids = [
        np.arange(k)[:, None] * d + np.arange(n)[None, :] * s for k, d, n, s in zip(block, dilations, counts, strides)
    ]
    places = [
        int(np.ravel_multi_index([g[k, n] for g, k, n in zip(grids, within, at)], image))
        for within in itertools.product(*map(range, block))
        for at in itertools.product(*map(range, counts))
    ]
    index = a.constant(torch.tensor(places, dtype=torch.int64))
    columns = a.reshape(a[0], (batch, channels, len(places)))
    empty = a.emit("aten.full", (batch, channels, product(image)), 0, dtype=tensor_type(a[0]).dtype)
    return a.reshape(a.emit("aten.index_add", empty, 2, index, columns), (batch, channels, *image))


@translates("MaxUnpool")
def max_unpool(a: Application) -> Value:
    """Elements back to where they were the maximum; zero elsewhere. What a given shape has beyond that is zero, too."""
    x, indices, kernel = a[0], a[1], a.attr("kernel_shape")
    n, c, *spatial = tensor_type(x).shape
    rank = len(kernel)
    strides, pads = a.attr("strides") or [1] * rank, a.attr("pads") or [0] * (2 * rank)
    crops = [pads[i] + pads[i + rank] for i in range(rank)]
    sizes = [(d - 1) * s + k - crop for d, s, k, crop in zip(spatial, strides, kernel, crops)]
    shape: list[Dim] = [n, c, *sizes]
    zeros = a.emit("aten.full", (product(shape),), 0.0, dtype=tensor_type(x).dtype)
    flat = a.emit("aten.scatter.src", zeros, 0, a.reshape(indices, (-1,)), a.reshape(x, (-1,)))
    y = a.reshape(flat, shape)
    if not a.has(2):
        return y
    wanted = a.dims(2)[-rank:]
    return a.emit("aten.constant_pad_nd", y, interleaved([0] * rank, [w - d for w, d in zip(wanted, sizes)]), 0)


@translates("CenterCropPad")
def center_crop_pad(a: Application) -> Value:
    """To given sizes about the centre: an odd element is cropped, or padded with zero, at the end."""
    x, shape = a[0], a.type(0).shape
    axes = [axis % len(shape) for axis in a.attr("axes") or range(len(shape))]
    before: list[Dim] = [0] * len(shape)
    after: list[Dim] = [0] * len(shape)
    for axis, wanted in zip(axes, a.dims(1)):
        more, less = dim_max(wanted - shape[axis], 0), dim_max(shape[axis] - wanted, 0)
        before[axis] = floordiv(more, 2) - floordiv(less, 2)
        after[axis] = wanted - shape[axis] - before[axis]
    fill = 0.0 if tensor_type(x).dtype.is_floating else False if tensor_type(x).dtype is DType.BOOL else 0
    return a.emit("aten.constant_pad_nd", x, interleaved(before, after), fill)
