"""Sampling of images at points between their elements.

The sample at a point is Σ κ(j₁ − x₁) ⋯ κ(j_r − x_r) · image[j₁, …, j_r] over the elements around it: one (the nearest),
two (a line) or four (a cubic) in each dim. An element outside of the image counts as zero, as the one at the border, or
as the one that a mirror at the border shows.
"""

from __future__ import annotations

import itertools
from functools import reduce

from graphopt.frontends.onnx.application import Application, Declined, tensor_type
from graphopt.frontends.onnx.operators.resampling import Kernel
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import dim_max, product
from graphopt.ir.dims import Dim

OFFSETS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
KERNELS = {"linear": Kernel(None), "cubic": Kernel(-0.75)}


def sampled(
    a: Application, image: Value, points: list[Value], mode: str, padding: str = "zeros", aligned: bool = False
) -> Value:
    """Samples `[N, C, P]` of images `[N, C, d₁, …, d_r]`.

    points: r coordinates of each point in elements, `[N, P]` each; of mode `nearest`, whole numbers. aligned: mirrors
    stand on the outermost elements, not half an element further out.

    Raises:
        Declined: the padding is unknown.
    """
    batch, channels, *sizes = tensor_type(image).shape
    count, rank = tensor_type(points[0]).shape[1], len(sizes)
    pixels = a.emit("aten.permute", image, [0, *range(2, rank + 2), 1])
    rows = a.reshape(pixels, (batch * product(sizes), channels))
    dims = [_neighbours(a, x, size, mode, padding, aligned) for x, size in zip(points, sizes)]
    own = a.emit("aten.mul.Scalar", a.emit("aten.arange", batch, dtype=DType.I64), product(sizes))
    own = a.emit("aten.unsqueeze", own, 1)
    terms = []
    for chosen in itertools.product(*dims):
        place = chosen[0][0]
        for (index, _), size in zip(chosen[1:], sizes[1:]):
            place = a.emit("aten.add.Tensor", a.emit("aten.mul.Scalar", place, size), index)
        place = a.reshape(a.emit("aten.add.Tensor", place, own), (batch * count,))
        term = a.emit("aten.index_select", rows, 0, place)
        weights = [weight for _, weight in chosen if weight is not None]
        if weights:
            weight = reduce(lambda x, y: a.emit("aten.mul.Tensor", x, y), weights)
            weight = a.cast(weight, tensor_type(image).dtype)
            term = a.emit("aten.mul.Tensor", term, a.reshape(weight, (batch * count, 1)))
        terms.append(term)
    total = a.reshape(reduce(lambda x, y: a.emit("aten.add.Tensor", x, y), terms), (batch, count, channels))
    return a.emit("aten.permute", total, [0, 2, 1])


def _neighbours(
    a: Application, x: Value, size: Dim, mode: str, padding: str, aligned: bool
) -> list[tuple[Value, Value | None]]:
    """The elements around a coordinate, and their weights; None stands for one."""
    result = []
    base = x if mode == "nearest" else a.emit("aten.floor", x)
    for offset in OFFSETS[mode]:
        place = a.emit("aten.add.Scalar", base, float(offset)) if offset else base
        weight = None if mode == "nearest" else KERNELS[mode](a, a.emit("aten.sub.Tensor", place, x))
        if padding == "zeros":
            inside = [a.emit("aten.ge.Scalar", place, 0.0), a.emit("aten.lt.Scalar", place, size)]
            seen = a.emit("aten.logical_and", *inside)
            if weight is None:
                weight = a.cast(seen, tensor_type(x).dtype)
            else:
                weight = a.emit("aten.where.self", seen, weight, a.scalar(0.0, weight))
        elif padding == "reflection":
            place = mirrored(a, place, size, aligned)
        elif padding != "border":
            raise Declined(f"padding {padding!r}")
        index = a.emit("aten.clamp", place, 0, size - 1)
        result.append((a.cast(index, DType.I64), weight))
    return result


def mirrored(a: Application, x: Value, size: Dim, aligned: bool) -> Value:
    """A coordinate between mirrors at both ends of a dim."""
    low, span = (0.0, dim_max(size - 1, 1)) if aligned else (-0.5, size)
    far = a.emit("aten.abs", a.emit("aten.sub.Scalar", x, low))
    turns = a.emit("aten.floor", a.emit("aten.div.Scalar", far, span))
    rest = a.emit("aten.sub.Tensor", far, a.emit("aten.mul.Scalar", turns, span))
    odd = a.emit("aten.eq.Scalar", a.emit("aten.remainder.Scalar", turns, 2.0), 1.0)
    rest = a.emit("aten.where.self", odd, a.emit("aten.rsub.Scalar", rest, span), rest)
    return a.emit("aten.add.Scalar", rest, low)
