"""Sampling on grids: GridSample and AffineGrid, PyTorch's own operators where they are the same function."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.interpolation import sampled
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import product
from graphopt.ir.dims import Dim, equal

MODES = {"bilinear": "linear", "bicubic": "cubic"}
WHOLE = {"linear": 0, "nearest": 1, "cubic": 2}
PADDINGS = {"zeros": 0, "border": 1, "reflection": 2}


@translates("GridSample")
def grid_sample(a: Application) -> Value:
    """Samples at points of a grid `[N, o₁, …, o_r, r]`, whose last dim says where, the last dim of the image first."""
    mode = MODES.get(a.attr("mode", "linear"), a.attr("mode", "linear"))
    padding, aligned = a.attr("padding_mode", "zeros"), bool(a.attr("align_corners", 0))
    dtype, rank = a.type(0).dtype, a.type(0).rank - 2
    if mode not in WHOLE or padding not in PADDINGS or not dtype.is_floating:
        raise Declined(f"mode {mode!r} with padding {padding!r} of {dtype}")
    if (rank, mode, padding) == (2, "cubic", "border"):
        raise Declined("cubics near the border: ONNX's reference, ONNX Runtime and PyTorch differ")
    wide = max(DType.F32, dtype, a.type(1).dtype, key=lambda t: t.bits)
    image, grid = a.cast(a[0], wide), a.cast(a[1], wide)
    if (rank == 2 or (rank == 3 and mode != "cubic")) and (mode, padding) != ("nearest", "reflection"):
        return a.cast(a.emit("aten.grid_sampler", image, grid, WHOLE[mode], PADDINGS[padding], aligned), dtype)
    return a.cast(_by_parts(a, image, grid, mode, padding, aligned), dtype)


def _by_parts(a: Application, image: Value, grid: Value, mode: str, padding: str, aligned: bool) -> Value:
    """Also where PyTorch mirrors before it rounds to the nearest element, ONNX after."""
    a.compose()
    batch, channels, *sizes = tensor_type(image).shape
    places = tensor_type(grid).shape[1:-1]
    flat = a.reshape(grid, (batch, product(places), len(sizes)))
    points = []
    for dim, size in enumerate(sizes):
        point = _elements(a, a.emit("aten.select.int", flat, 2, len(sizes) - 1 - dim), size, aligned)
        if mode == "nearest":
            point = a.emit("aten.round", point)
        elif mode == "cubic" and padding == "border":
            point = _moved_inside(a, point, size, aligned)
        points.append(point)
    return a.reshape(sampled(a, image, points, mode, padding, aligned), (batch, channels, *places))


def _elements(a: Application, x: Value, size: Dim, aligned: bool) -> Value:
    """From −1 … 1 to elements: ends of the dim, or its outermost elements if aligned."""
    x = a.emit("aten.add.Scalar", x, 1.0)
    if aligned:
        return a.emit("aten.mul.Scalar", a.emit("aten.div.Scalar", x, 2.0), size - 1)
    return a.emit("aten.div.Scalar", a.emit("aten.sub.Scalar", a.emit("aten.mul.Scalar", x, size), 1.0), 2.0)


def _moved_inside(a: Application, x: Value, size: Dim, aligned: bool) -> Value:
    """Points beyond the ends of a dim, to its outermost elements; those up to half an element further out stay."""
    clamped = a.emit("aten.clamp", x, 0, size - 1)
    if aligned:
        return clamped
    near = a.emit("aten.le.Scalar", a.emit("aten.abs", a.emit("aten.sub.Tensor", x, clamped)), 0.5)
    return a.emit("aten.where.self", near, x, clamped)


@translates("AffineGrid")
def affine_grid(a: Application) -> Value:
    """The points θ·(x, y, …, 1) of a regular grid."""
    size, aligned = a.dims(1), bool(a.attr("align_corners", 0))
    if aligned and any(equal(d, 1) is True for d in size[2:]):
        raise Declined("the only point of a dim whose ends are aligned")
    return a.emit("aten.affine_grid_generator", a[0], size, aligned)
