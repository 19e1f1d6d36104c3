"""Pooling of regions of images, and the choice among overlapping boxes.

RoiAlign samples every cell of a region at s² regular points, linearly between the four elements around each, and takes
the mean of the samples, or the largest of all w·x of the elements. MaxRoiPool takes the maximum of the elements in each
cell, whose ends are rounded outwards.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import reduce

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dims import Dim


@dataclass(frozen=True)
class Neighbour:
    """The element before or after each sample along a dim, and its weight: `[R, samples]`."""

    place: Value
    weight: Value


@translates("RoiAlign")
def roi_align(a: Application) -> Value:
    """Regions (x₁, y₁, x₂, y₂) of the images that `batch_indices` names: `[R, C, h, w]`."""
    image, mode, samples = a[0], a.attr("mode", "avg"), a.attr("sampling_ratio", 0)
    if samples <= 0 or mode not in ("avg", "max"):
        raise Declined(f"mode {mode!r} with {samples or 'as many'} samples a cell{'' if samples else ' as fit'}")
    a.compose()
    batch, channels, height, width = tensor_type(image).shape
    rows, columns = a.attr("output_height", 1), a.attr("output_width", 1)
    down = _samples(a, 1, rows, samples, height)
    across = _samples(a, 0, columns, samples, width)
    regions = tensor_type(a[1]).shape[0]
    pixels = a.reshape(a.emit("aten.permute", image, [0, 2, 3, 1]), (batch * height * width, channels))
    owner = a.emit("aten.mul.Scalar", a.reshape(a.cast(a[2], DType.I64), (regions, 1, 1)), height * width)
    terms = []
    for y, x in itertools.product(down, across):
        place = a.emit("aten.add.Tensor", a.emit("aten.mul.Scalar", _column(a, y.place), width), _row(a, x.place))
        weight = a.emit("aten.mul.Tensor", _column(a, y.weight), _row(a, x.weight))
        count = regions * (rows * columns * samples * samples)
        near = a.emit("aten.index_select", pixels, 0, a.reshape(a.emit("aten.add.Tensor", place, owner), (count,)))
        factor = a.cast(a.reshape(weight, (count, 1)), tensor_type(image).dtype)
        terms.append(a.emit("aten.mul.Tensor", near, factor))
    join = "aten.add.Tensor" if mode == "avg" else "aten.maximum"
    joined = reduce(lambda x, y: a.emit(join, x, y), terms)
    cells = a.reshape(joined, (regions, rows, samples, columns, samples, channels))
    pooled = a.emit("aten.mean.dim" if mode == "avg" else "aten.amax", cells, [2, 4])
    return a.emit("aten.permute", pooled, [0, 3, 1, 2])


def _samples(a: Application, coordinate: int, cells: int, samples: int, size: Dim) -> tuple[Neighbour, Neighbour]:
    """The neighbours of the samples along one dim. A sample more than an element outside has no weight."""
    shifted = a.attr("coordinate_transformation_mode", "half_pixel" if a.version >= 16 else "output_half_pixel")
    start, end = (_scaled(a, coordinate + i) for i in (0, 2))
    if shifted == "half_pixel":
        start, end = (a.emit("aten.sub.Scalar", v, 0.5) for v in (start, end))
    extent = a.emit("aten.sub.Tensor", end, start)
    if shifted != "half_pixel":
        extent = a.emit("aten.clamp", extent, 1.0, None)
    steps = a.emit("aten.arange", cells * samples, dtype=tensor_type(start).dtype)
    steps = a.emit("aten.div.Scalar", a.emit("aten.add.Scalar", steps, 0.5), float(cells * samples))
    x = a.emit("aten.add.Tensor", start, a.emit("aten.mul.Tensor", extent, steps))
    near = a.emit("aten.logical_and", a.emit("aten.ge.Scalar", x, -1.0), a.emit("aten.le.Scalar", x, size))
    x = a.emit("aten.clamp", x, 0, size - 1)
    low = a.emit("aten.floor", x)
    after = a.emit("aten.sub.Tensor", x, low)
    before = a.emit("aten.rsub.Scalar", after, 1.0)
    index = a.cast(low, DType.I64)
    following = a.emit("aten.clamp", a.emit("aten.add.Scalar", index, 1), None, size - 1)
    weights = [a.emit("aten.where.self", near, w, a.scalar(0.0, w)) for w in (before, after)]
    return Neighbour(index, weights[0]), Neighbour(following, weights[1])


def _scaled(a: Application, coordinate: int) -> Value:
    """A coordinate of each region, on the scale of the image: `[R, 1]`."""
    corners = a.cast(a[1], DType.F32) if a.type(1).dtype is not DType.F64 else a[1]
    chosen = a.emit("aten.slice.Tensor", corners, 1, coordinate, coordinate + 1)
    return a.emit("aten.mul.Scalar", chosen, a.attr("spatial_scale", 1.0))


def _column(a: Application, x: Value) -> Value:
    return a.emit("aten.unsqueeze", x, 2)


def _row(a: Application, x: Value) -> Value:
    return a.emit("aten.unsqueeze", x, 1)


@translates("MaxRoiPool")
def max_roi_pool(a: Application) -> Value:
    """Regions (image, x₁, y₁, x₂, y₂), all of them within: `[R, C, h, w]`; zero where a cell is empty."""
    a.compose()
    image = a[0]
    rows, columns = a.attr("pooled_shape")
    _, _, height, width = tensor_type(image).shape
    owner = a.cast(a.emit("aten.select.int", a[1], 1, 0), DType.I64)
    own = a.emit("aten.index_select", image, 0, owner)
    across, down = _cells(a, 1, columns, width), _cells(a, 2, rows, height)
    by_column = a.emit("aten.stack", [_largest(a, own, across, i) for i in range(columns)], 3)
    turned = a.emit("aten.permute", by_column, [0, 1, 3, 2])  # [R, C, w, H]
    pooled = a.emit("aten.stack", [_largest(a, turned, down, i) for i in range(rows)], 2)
    some = [a.emit("aten.any.dim", mask, 2) for mask in (down, across)]
    filled = a.emit("aten.logical_and", _column(a, some[0]), _row(a, some[1]))
    return a.emit("aten.where.self", _row(a, filled), pooled, a.scalar(0.0, pooled))


def _cells(a: Application, coordinate: int, cells: int, size: Dim) -> Value:
    """Which elements of a dim each cell covers: `[R, cells, size]`."""
    start, end = (_rounded(a, _scaled(a, coordinate + i)) for i in (0, 2))
    extent = a.emit("aten.clamp", a.emit("aten.add.Scalar", a.emit("aten.sub.Tensor", end, start), 1.0), 1.0, None)
    step = a.emit("aten.div.Scalar", extent, float(cells))
    index = a.emit("aten.arange", cells, dtype=tensor_type(step).dtype)
    low = a.emit("aten.floor", a.emit("aten.mul.Tensor", step, index))
    high = a.emit("aten.ceil", a.emit("aten.mul.Tensor", step, a.emit("aten.add.Scalar", index, 1.0)))
    low, high = (_column(a, a.emit("aten.add.Tensor", v, start)) for v in (low, high))
    place = a.emit("aten.arange", size, dtype=tensor_type(step).dtype)
    return a.emit("aten.logical_and", a.emit("aten.ge.Tensor", place, low), a.emit("aten.lt.Tensor", place, high))


def _rounded(a: Application, x: Value) -> Value:
    """To the nearest whole number, halves away from zero."""
    away = a.emit("aten.floor", a.emit("aten.add.Scalar", a.emit("aten.abs", x), 0.5))
    return a.emit("aten.mul.Tensor", a.emit("aten.sign", x), away)


def _largest(a: Application, x: Value, cells: Value, index: int) -> Value:
    """The maximum along the last dim of `[R, C, K, size]` over the elements of a cell: `[R, C, K]`."""
    mask = a.emit("aten.select.int", cells, 1, index)
    mask = a.emit("aten.unsqueeze", a.emit("aten.unsqueeze", mask, 1), 2)
    hidden = a.emit("aten.where.self", mask, x, a.scalar(float("-inf"), x))
    return a.emit("aten.amax", hidden, [-1])


@translates("NonMaxSuppression")
def non_max_suppression(a: Application) -> Value:
    """Rows (image, class, box) of the best boxes that do not overlap."""
    limits = [a.get(i) for i in range(2, 5)]
    return a.emit("graphopt.non_max_suppression", a[0], a[1], *limits, bool(a.attr("center_point_box", 0)))
