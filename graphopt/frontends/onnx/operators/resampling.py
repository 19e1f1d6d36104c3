"""Resampling along one dim, for every mode of `Resize`.

Output i lies at x = (i + p)·n/d + q of the input, and is

    Σ_j κ((j − x)·min(scale, 1)) · input[clamp(j)],      j = ⌊x⌋ − r + 1 … ⌊x⌋ + r

with the hat κ(u) = max(0, 1 − |u|), or Keys' cubic of parameter A. Only with antialiasing is min(scale, 1) there. The
weights are divided by their sum where they don't sum to one: with antialiasing, or where what lies outside is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch

from graphopt.frontends.onnx.application import Application, Declined, listable, tensor_type
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import dim_max, dim_min
from graphopt.ir.dims import Dim, equal


@dataclass(frozen=True)
class Axis:
    """A dim that changes its size.

    scale: output over input, as the file says or, of known sizes, computed; None if the sizes aren't known.
    width: the size that the scale asks for, which the output's is rounded down from; None if not known. roi: the
    part of the input that is resampled, as fractions.
    """

    dim: int
    size: Dim
    out: Dim
    scale: float | None
    width: Dim | float | None
    roi: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if isinstance(self.out, int):
            listable(self.out, "a dim")

    @property
    def is_static(self) -> bool:
        """True if both sizes are known."""
        return isinstance(self.size, int) and isinstance(self.out, int)

    @property
    def is_identity(self) -> bool:
        """True if nothing changes, unless it is a part that is resampled."""
        return self.scale == 1 or (self.scale is None and equal(self.size, self.out) is True)

    def check(self) -> None:
        """Refuse what ONNX's reference and ONNX Runtime read differently: one output of a fractional width."""
        if self.out == 1 and self.width != 1:
            raise Declined(f"one output for a width of {self.width}")


@dataclass(frozen=True)
class Line:
    """Where output i lies in the input: ((i + p)·n/d + q)·gate, up to a slack where q is rounded, too."""

    p: float
    n: Any
    d: Any
    q: float
    gate: Dim = 1
    slack: float = 0.0

    def at(self, count: int, dtype: Any) -> np.ndarray:
        """The positions of `count` outputs, computed in a dtype of NumPy."""
        p, n, d, q = (dtype(v) for v in (self.p, self.n, self.d, self.q))
        return (np.arange(count, dtype=dtype) + p) * n / d + q * dtype(self.gate)

    def value(self, a: Application, axis: Axis) -> Value:
        """The positions in double precision, as a constant where the sizes are known."""
        if axis.is_static:
            return a.constant(torch.from_numpy(self.at(axis.out, np.float64)))  # type: ignore[arg-type]
        x = a.emit("aten.arange", axis.out, dtype=DType.F64)
        x = a.emit("aten.div.Scalar", a.emit("aten.mul.Scalar", a.emit("aten.add.Scalar", x, self.p), self.n), self.d)
        x = a.emit("aten.add.Scalar", x, self.q)
        return x if self.gate == 1 else a.emit("aten.mul.Scalar", x, self.gate)


def line(axis: Axis, mode: str) -> Line:
    """The coordinate transformation of a mode.

    Raises:
        Declined: it needs sizes that aren't known.
    """
    n, d = (axis.size, axis.out) if axis.scale is None else (1.0, axis.scale)
    if mode == "asymmetric":
        return Line(0.0, n, d, 0.0)
    if mode == "half_pixel":
        return Line(0.5, n, d, -0.5)
    if mode == "pytorch_half_pixel":
        if axis.out == 1:
            axis.check()
            return Line(0.0, 0.0, 1.0, 0.0)
        if isinstance(axis.out, int):
            return Line(0.5, n, d, -0.5)
        if axis.scale is not None and not axis.scale.is_integer():
            raise Declined("perhaps one output for a fractional width")
        return Line(0.5, n, d, -0.5, dim_min(axis.out - 1, 1))
    if axis.width is None:
        raise Declined(f"the coordinates {mode} of a size that is not known")
    if mode == "align_corners":
        whole = axis.width - 1
        return Line(0.0, axis.size - 1, max(whole, 1) if isinstance(whole, int | float) else dim_max(whole, 1), 0.0)
    if mode == "half_pixel_symmetric":
        off = 0.0
        if axis.width != axis.out:
            if not isinstance(axis.width, int | float) or not axis.is_static:
                raise Declined(f"the coordinates {mode} of a size that is not known")
            off = axis.size / 2 * (1 - axis.out / axis.width)  # type: ignore[operator]
        return Line(0.5, n, d, off - 0.5, slack=1e-6)
    if mode == "tf_crop_and_resize":
        return _cropped(axis)
    raise Declined(f"the coordinates {mode!r}")


def _cropped(axis: Axis) -> Line:
    start, end = axis.roi
    if not isinstance(axis.size, int) or not isinstance(axis.width, int | float):
        raise Declined("a crop of a dim whose size is not known")
    last = axis.size - 1
    if axis.out == 1:
        axis.check()
        return Line(0.0, 0.0, 1.0, 0.5 * (start + end) * last)
    slack = 0.0 if (start, end) == (0.0, 1.0) else 1e-6 * axis.size
    return Line(0.0, (end - start) * last, axis.width - 1, start * last, slack=slack)


NEAR_HALF = 1e-4
"""So close to a half, a position may be taken for one."""

ROUNDED: dict[str, Any] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.floor(x) + (x - np.floor(x) > 0.5),
    "round_prefer_ceil": lambda x: np.floor(x) + (x - np.floor(x) >= 0.5),
}


def nearest_indices(axis: Axis, where: Line, rounding: str) -> np.ndarray:
    """The input element for each output, of known sizes; from positions in single precision, as in ONNX Runtime.

    Raises:
        Declined: it is a matter of rounding. (Near halves, ONNX Runtime takes for halves, ONNX's reference does not.)
    """
    assert isinstance(axis.size, int) and isinstance(axis.out, int)
    single = where.at(axis.out, np.float32)
    positions = [single]
    if rounding.startswith("round") or where.slack:
        exact = where.at(axis.out, np.float64)
        halves = np.floor(exact) + 0.5
        near = np.where(np.abs(exact - halves) < NEAR_HALF, halves, exact)
        positions += [exact, near, exact - where.slack, exact + where.slack]
    first, *others = (ROUNDED[rounding](x).clip(0, axis.size - 1).astype(np.int64) for x in positions)
    if not all(np.array_equal(first, other) for other in others):
        raise Declined(f"which element is nearest is a matter of rounding where {axis.size} become {axis.out}")
    return first


def nearest(a: Application, x: Value, axis: Axis, where: Line, rounding: str) -> Value:
    """The nearest element for each output."""
    if axis.is_static:
        index = a.constant(torch.from_numpy(nearest_indices(axis, where, rounding)))
    else:
        position = where.value(a, axis)
        if rounding.startswith("round"):
            ceil = rounding.endswith("floor")
            position = a.emit("aten.add.Scalar", position, -0.5 if ceil else 0.5)
            position = a.emit("aten.ceil" if ceil else "aten.floor", position)
        else:
            position = a.emit(f"aten.{rounding}", position)
        index = _clamped(a, a.cast(position, DType.I64), axis.size)
    return a.emit("aten.index_select", x, axis.dim, index)


@dataclass(frozen=True)
class Kernel:
    """κ: the hat (`cubic` None), or Keys' cubic of a parameter; narrowed by `squeeze` against aliasing.

    inside: leave out elements beyond the ends, not repeat the last one.
    """

    cubic: float | None
    squeeze: float = 1.0
    inside: bool = False

    @property
    def reach(self) -> int:
        """r: how many elements on either side have a weight."""
        return math.ceil((1 if self.cubic is None else 2) / self.squeeze)

    def __call__(self, a: Application, u: Value) -> Value:
        """κ(u)."""
        u = a.emit("aten.abs", u)
        if self.cubic is None:
            return a.emit("aten.clamp", a.emit("aten.rsub.Scalar", u, 1.0), 0.0, None)
        c = self.cubic
        near = _polynomial(a, u, (c + 2, -(c + 3), 0.0, 1.0))
        far = _polynomial(a, u, (c, -5 * c, 8 * c, -4 * c))
        far = a.emit("aten.where.self", a.emit("aten.lt.Scalar", u, 2.0), far, a.scalar(0.0, u))
        return a.emit("aten.where.self", a.emit("aten.le.Scalar", u, 1.0), near, far)


def interpolated(a: Application, x: Value, axis: Axis, where: Line, kernel: Kernel) -> Value:
    """Weighted sums of neighbours along a dim."""
    reach = kernel.reach
    position = a.emit("aten.unsqueeze", where.value(a, axis), 1)
    offsets = a.constant(torch.arange(1 - reach, reach + 1, dtype=torch.float64))
    places = a.emit("aten.add.Tensor", a.emit("aten.floor", position), offsets)
    distance = a.emit("aten.sub.Tensor", places, position)
    weights = kernel(a, distance if kernel.squeeze == 1 else a.emit("aten.mul.Scalar", distance, kernel.squeeze))
    if kernel.inside:
        seen = [a.emit("aten.ge.Scalar", places, 0), a.emit("aten.lt.Scalar", places, axis.size)]
        weights = a.emit("aten.where.self", a.emit("aten.logical_and", *seen), weights, a.scalar(0.0, weights))
    if kernel.inside or kernel.squeeze != 1:
        weights = a.emit("aten.div.Tensor", weights, a.emit("aten.sum.dim_IntList", weights, [1], True))
    weights = a.cast(weights, tensor_type(x).dtype)
    return _weighted(a, x, axis, _clamped(a, a.cast(places, DType.I64), axis.size), weights)


def _weighted(a: Application, x: Value, axis: Axis, places: Value, weights: Value) -> Value:
    """The sum of the elements at `places` times `weights`, `[outputs, taps]` each: of few taps one by one."""
    taps, dim, shape = tensor_type(places).shape[1], axis.dim, tensor_type(x).shape
    behind = [1] * (len(shape) - dim - 1)
    if isinstance(taps, int) and taps <= 4:
        terms = []
        for tap in range(taps):
            index, weight = (a.emit("aten.select.int", v, 1, tap) for v in (places, weights))
            near = a.emit("aten.index_select", x, dim, index)
            terms.append(a.emit("aten.mul.Tensor", near, a.reshape(weight, (axis.out, *behind))))
        return reduce(lambda left, right: a.emit("aten.add.Tensor", left, right), terms)
    near = a.emit("aten.index_select", x, dim, a.reshape(places, (axis.out * taps,)))
    near = a.reshape(near, (*shape[:dim], axis.out, taps, *shape[dim + 1 :]))
    factors = a.reshape(weights, (axis.out, taps, *behind))
    return a.emit("aten.sum.dim_IntList", a.emit("aten.mul.Tensor", near, factors), [dim + 1])


def extrapolated(a: Application, y: Value, axis: Axis, where: Line, fill: float) -> Value:
    """Put a number where an output lies outside of the input.

    Raises:
        Declined: whether it does is a matter of rounding.
    """
    assert isinstance(axis.size, int) and isinstance(axis.out, int)
    x = where.at(axis.out, np.float64)
    surely, maybe = ((x < -slack) | (x > axis.size - 1 + slack) for slack in (where.slack, -where.slack))
    if not np.array_equal(surely, maybe):
        raise Declined("whether the end of a crop lies outside of the image is a matter of rounding")
    if not surely.any():
        return y
    mask = a.constant(torch.from_numpy(surely).reshape(-1, *[1] * (tensor_type(y).rank - axis.dim - 1)))
    return a.emit("aten.where.self", mask, a.scalar(fill, y), y)


def _polynomial(a: Application, u: Value, coefficients: tuple[float, ...]) -> Value:
    """Horner's scheme, the highest power first."""
    result = a.emit("aten.mul.Scalar", u, coefficients[0])
    for coefficient in coefficients[1:-1]:
        result = a.emit("aten.mul.Tensor", a.emit("aten.add.Scalar", result, coefficient), u)
    return a.emit("aten.add.Scalar", result, coefficients[-1])


def _clamped(a: Application, index: Value, size: Dim) -> Value:
    return a.emit("aten.clamp", index, 0, size - 1)
