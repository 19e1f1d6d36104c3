"""Resize and Upsample: PyTorch's own operators where they are the same function, else dim by dim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from graphopt.frontends.onnx.application import Application, Declined, translates
from graphopt.frontends.onnx.operators.resampling import (
    Axis,
    Kernel,
    extrapolated,
    interpolated,
    line,
    nearest,
    nearest_indices,
)
from graphopt.frontends.onnx.operators.windows import interleaved
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import floordiv
from graphopt.ir.dims import Dim, equal

LONGEST = 1 << 20
"""Up to this size an operator of PyTorch must pick the same elements."""


@dataclass(frozen=True)
class Method:
    """How elements between the given ones are found. scaled: the file gives scales, not sizes."""

    mode: str
    coordinates: str
    rounding: str
    scaled: bool
    cubic: float = -0.75
    inside: bool = False
    antialias: bool = False
    fill: float = 0.0


@translates("Resize")
def resize(a: Application) -> Value:
    """Any mode, by scales or sizes."""
    given = a.version >= 11
    scales = _scales(a, 2 if given else 1)
    mode = a.attr("mode", "nearest")
    if not given:
        return _resized(a, _axes(a, scales), Method(mode, "asymmetric", _simple(scales), True))
    method = Method(
        mode,
        a.attr("coordinate_transformation_mode", "half_pixel"),
        a.attr("nearest_mode", "round_prefer_floor"),
        scales is not None or a.attr("keep_aspect_ratio_policy", "stretch") != "stretch",
        a.attr("cubic_coeff_a", -0.75),
        bool(a.attr("exclude_outside", 0)),
        bool(a.attr("antialias", 0)),
        a.attr("extrapolation_value", 0.0),
    )
    return _resized(a, _axes(a, scales), method)


@translates("Upsample")
def upsample(a: Application) -> Value:
    """Enlarged by scales: the nearest element before, or a line between two."""
    scales = list(a.attr("scales") or a.numbers(1))
    if min(scales, default=1.0) < 1:
        raise Declined("Upsample that makes a dim smaller")
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(a.attr("mode", "nearest"), a.attr("mode", "nearest"))
    return _resized(a, _axes(a, scales), Method(mode, "asymmetric", "floor", True))


def _scales(a: Application, index: int) -> list[float] | None:
    """The scales, if there are any."""
    if not a.has(index) or a.type(index).numel == 0:
        return None
    return list(a.numbers(index))


def _simple(scales: Sequence[float] | None) -> str:
    """What opset 10 leaves open, ONNX Runtime decides: elements before where a dim grows, after where it shrinks."""
    for scale in scales or ():
        if scale < 1 and not (1 / scale).is_integer():
            raise Declined("opset 10 does not say which element is the nearest where a dim shrinks")
    return "floor"


# Sizes


def _axes(a: Application, scales: Sequence[float] | None) -> list[Axis]:
    """The dims that are resampled."""
    shape = a.type(0).shape
    dims = [d % len(shape) for d in a.attr("axes", range(len(shape)))]
    if scales is not None:
        found = [_by_scale(d, shape[d], float(scale)) for d, scale in zip(dims, scales)]
    else:
        found = _by_sizes(a, dims, a.dims(3))
    if len(found) < len(dims):
        raise Declined(f"{len(found)} scales or sizes for {len(dims)} dims")
    if a.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return _cropped(a, found, scales is not None)
    return [axis for axis in found if not axis.is_identity]


def _by_scale(dim: int, size: Dim, scale: float) -> Axis:
    """⌊size·scale⌋, the product rounded to single precision, as shape inference does it."""
    if isinstance(size, int):
        return Axis(dim, size, int(np.float32(size) * np.float32(scale)), scale, size * scale)
    ratio = Fraction(scale)
    if ratio.numerator > 1024:
        raise Declined(f"{scale} times a size that is not known, rounded")
    out = floordiv(size * ratio.numerator, ratio.denominator)
    return Axis(dim, size, out, scale, out if ratio.denominator == 1 else None)


def _from_the_corner(a: Application, axes: list[Axis], rank: int) -> Value | None:
    """Lines between elements that land on every s-th output: with the last element once more, corners are aligned.

    (n + 1 elements become s·n + 1, so that output i lies at i·n/(s·n) = i/s; the last output is cut off.)
    """
    if any(axis.scale is None or axis.scale < 1 or not axis.scale.is_integer() for axis in axes):
        return None
    a.compose()
    shape, grown = a.type(0).shape[2:], {axis.dim - 2: axis.out for axis in axes}
    after = [int(i in grown) for i in range(rank)]
    padded = a.emit(f"aten.replication_pad{rank}d", a[0], interleaved([0] * rank, after))
    sizes = [grown[i] + 1 if i in grown else size for i, size in enumerate(shape)]
    y = a.emit(f"aten.{NAMES['linear'][rank]}", padded, sizes, True, *[None] * rank)
    for i, out in grown.items():
        y = a.emit("aten.slice.Tensor", y, i + 2, 0, out)
    return y


def _is_by_scale(axis: Axis) -> bool:
    """True if the scale alone says the size, too."""
    return not axis.is_static or _by_scale(axis.dim, axis.size, float(axis.scale or 1)).out == axis.out


def _by_sizes(a: Application, dims: list[int], sizes: list[Dim]) -> list[Axis]:
    shape, policy = a.type(0).shape, a.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [Axis(d, shape[d], out, _ratio(out, shape[d]), out) for d, out in zip(dims, sizes)]
    pairs = [(out, shape[d]) for d, out in zip(dims, sizes)]
    ratios = [_ratio(*pair) for pair in pairs]
    known = [r for r in ratios if r is not None]
    if len(known) < len(ratios):
        raise Declined("an aspect ratio of sizes that are not known")
    scale = min(known) if policy == "not_larger" else max(known)
    return [Axis(d, s, _half_up(s, scale), scale, s * scale) for d, s in zip(dims, [int(shape[d]) for d in dims])]  # type: ignore[arg-type]


def _half_up(size: int, scale: float) -> int:
    exact, single = int(scale * size + 0.5), int(np.floor(np.float32(scale) * np.float32(size) + np.float32(0.5)))
    if exact != single:
        raise Declined(f"{scale} times {size} is a half, more or less")
    return exact


def _ratio(out: Dim, size: Dim) -> float | None:
    return out / size if isinstance(out, int) and isinstance(size, int) and size else None


def _cropped(a: Application, axes: list[Axis], scaled: bool) -> list[Axis]:
    roi = [float(r) for r in a.numbers(1)]
    starts, ends = roi[: len(axes)], roi[len(axes) :]
    if len(starts) != len(axes) or len(ends) != len(axes):
        raise Declined(f"a region of {len(roi)} numbers for {len(axes)} dims")
    result = []
    for axis, start, end in zip(axes, starts, ends):
        whole = (start, end) == (0.0, 1.0)
        if whole and axis.is_identity:
            continue
        if not whole and (scaled or equal(axis.size, axis.out) is not False):
            raise Declined("a crop by scales, or to as many elements: ONNX's reference and ONNX Runtime differ")
        result.append(Axis(axis.dim, axis.size, axis.out, axis.scale, axis.width, (start, end)))
    return result


# Emission


def _resized(a: Application, axes: list[Axis], method: Method) -> Value:
    if method.mode not in ("nearest", "linear", "cubic"):
        raise Declined(f"mode {method.mode!r}")
    if not axes:
        return a[0]
    whole = _whole(a, axes, method)
    if whole is not None:
        return whole
    if method.mode == "nearest":
        return _by_parts(a, a[0], axes, method)
    dtype = a.type(0).dtype
    if not dtype.is_floating:
        raise Declined(f"{method.mode} interpolation of {dtype}, rounded one way or another")
    wide = a.cast(a[0], DType.F32) if dtype in (DType.F16, DType.BF16) else a[0]
    return a.cast(_by_parts(a, wide, axes, method), dtype)


def _by_parts(a: Application, x: Value, axes: list[Axis], method: Method) -> Value:
    """One dim after another."""
    a.compose()
    for axis in axes:
        where = line(axis, method.coordinates)
        if method.mode == "nearest":
            x = nearest(a, x, axis, where, method.rounding)
        else:
            x = interpolated(a, x, axis, where, _kernel(axis, method))
        if method.coordinates == "tf_crop_and_resize":
            x = extrapolated(a, x, axis, where, method.fill)
    return x


def _kernel(axis: Axis, method: Method) -> Kernel:
    cubic = method.cubic if method.mode == "cubic" else None
    if (
        cubic is not None
        and method.coordinates == "pytorch_half_pixel"
        and axis.size != 1
        and equal(axis.out, 1) is not False
    ):
        raise Declined("where the only output of a cubic lies, of which opinions differ")
    if not method.antialias:
        return Kernel(cubic, inside=method.inside)
    if axis.scale is None:
        raise Declined("antialiasing to a scale that is not known")
    return Kernel(cubic, min(axis.scale, 1.0), method.inside)


NAMES = {
    "linear": {1: "upsample_linear1d", 2: "upsample_bilinear2d", 3: "upsample_trilinear3d"},
    "cubic": {2: "upsample_bicubic2d"},
}


def _whole(a: Application, axes: list[Axis], method: Method) -> Value | None:
    """An operator of PyTorch, if one is the same function: over dims behind the first two, of floats."""
    rank = a.type(0).rank - 2
    if rank not in (1, 2, 3) or min(axis.dim for axis in axes) < 2 or not a.type(0).dtype.is_floating:
        return None
    if method.mode == "linear" and method.coordinates == "asymmetric" and not (method.inside or method.antialias):
        return _from_the_corner(a, axes, rank)
    options: list[Any] = []
    if method.mode == "nearest":
        name = _nearest_name(axes, method)
        name = name and f"{name}{rank}d"
    else:
        name = NAMES[method.mode].get(rank) if _is_plain(axes, method) else None
        options = [method.coordinates == "align_corners"]
    if name is None or (method.scaled and not all(map(_is_by_scale, axes))):
        return None
    by_dim = {axis.dim: axis for axis in axes}
    places = range(2, rank + 2)
    sizes = [by_dim[d].out if d in by_dim else a.type(0).shape[d] for d in places]
    scales = [by_dim[d].scale if d in by_dim else 1.0 for d in places] if method.scaled else [None] * rank
    return a.emit(f"aten.{name}", a[0], sizes, *options, *scales)


def _is_plain(axes: list[Axis], method: Method) -> bool:
    """True if lines and cubics are PyTorch's: repeated at the ends, centres or corners aligned."""
    if method.antialias or method.inside or (method.mode == "cubic" and method.cubic != -0.75):
        return False
    if method.coordinates == "align_corners":
        return all(axis.width == axis.out for axis in axes)
    if method.coordinates == "pytorch_half_pixel":
        return all(equal(axis.out, 1) is False for axis in axes)
    return method.coordinates == "half_pixel"


def _nearest_name(axes: list[Axis], method: Method) -> str | None:
    """PyTorch's ⌊i·in/out⌋ or ⌊(i + ½)·in/out⌋, if it picks the same elements."""
    for name, shift in (("upsample_nearest", 0.0), ("_upsample_nearest_exact", 0.5)):
        if all(_picks_alike(axis, method, shift) for axis in axes):
            return name
    return None


def _picks_alike(axis: Axis, method: Method, shift: float) -> bool:
    if axis.is_static and method.coordinates != "tf_crop_and_resize":
        picked = nearest_indices(axis, line(axis, method.coordinates), method.rounding)
        return np.array_equal(picked, _torch_indices(axis, shift))
    if axis.scale is not None and axis.scale.is_integer() and axis.scale > 1:
        sample = Axis(0, 8, 8 * int(axis.scale), axis.scale, 8 * axis.scale)
        if method.coordinates in ("asymmetric", "half_pixel", "half_pixel_symmetric"):
            picked = nearest_indices(sample, line(sample, method.coordinates), method.rounding)
            repeated = np.arange(sample.out) // int(axis.scale)  # type: ignore[arg-type]
            return np.array_equal(picked, repeated) and _repeats(int(axis.scale), shift)
    same = ("asymmetric", "floor") if shift == 0 else ("half_pixel", "round_prefer_ceil")
    return (method.coordinates, method.rounding) == same


def _torch_indices(axis: Axis, shift: float) -> np.ndarray:
    """The elements that PyTorch's kernels pick, in single precision."""
    assert isinstance(axis.size, int) and isinstance(axis.out, int) and axis.scale is not None
    factor = np.float32(1.0 / axis.scale)
    picked = np.floor((np.arange(axis.out, dtype=np.float32) + np.float32(shift)) * factor)
    return np.minimum(picked, axis.size - 1).astype(np.int64)


def _repeats(scale: int, shift: float) -> bool:
    """True if PyTorch repeats each element `scale` times, for every size up to `LONGEST`."""
    count = LONGEST // scale * scale
    axis = Axis(0, count // scale, count, float(scale), count)
    return np.array_equal(_torch_indices(axis, shift), np.arange(count) // scale)
