"""Resampling: interpolation, sampling on a grid, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import as_tensor
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, Lowering, lowers, lowers_each
from graphopt.backends.onnx.shaping import END, unsqueeze
from graphopt.ir.dims import Dim

_MODES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "_nearest_exact": {
        "mode": "nearest",
        "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_ceil",
    },
    "linear": {"mode": "linear"},
    "bilinear": {"mode": "linear"},
    "trilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.75},
}


def _upsample(mode: str) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        antialias = mode.startswith("_up")
        attributes = dict(_MODES[mode.replace("_up_", "")])
        if "coordinate_transformation_mode" not in attributes:
            aligned = "align_corners" if a.align_corners else "half_pixel"
            attributes["coordinate_transformation_mode"] = aligned
        if antialias:  # weights as in Pillow: of the cells inside alone, and another cubic
            attributes.update(antialias=1, exclude_outside=1)
            attributes.update({"cubic_coeff_a": -0.5} if "cubic_coeff_a" in attributes else {})
        scales = _scales(a)
        if scales is None or antialias:
            return e.op("Resize", _image(a), None, None, e.sizes.vector(a.out.shape), **attributes)
        factors = torch.tensor([1.0, 1.0, *scales], dtype=torch.float32)
        for size, factor, out in zip(_image(a).dims, factors, a.out.shape):
            if isinstance(size, int) and isinstance(out, int) and int(factor * size) != out:
                raise Declined(f"{size} times {factor:g} is not {out} in single precision")
        return e.op("Resize", _image(a), None, e.constant(factors, "scales"), **attributes)

    return lower


def _image(a: Call) -> Tensor:
    image: Tensor = a.input if hasattr(a, "input") else a.self
    return image


def _scales(a: Call) -> list[float] | None:
    """The factors that the caller gave, which also place the samples; None if the sizes decide."""
    given = getattr(a, "scale_factors", None)
    if given is None:
        named = [getattr(a, name, None) for name in ("scales_d", "scales_h", "scales_w", "scales")]
        given = [scale for scale in named if scale is not None]
    rank = _image(a).rank - 2
    return [float(s) for s in given] if given and len(given) == rank else None


lowers_each(
    {
        f"aten.{name}{suffix}": mode
        for name, mode in {
            **{f"upsample_nearest{d}d": "nearest" for d in (1, 2, 3)},
            **{f"_upsample_nearest_exact{d}d": "_nearest_exact" for d in (1, 2, 3)},
            "upsample_linear1d": "linear",
            "upsample_bilinear2d": "bilinear",
            "upsample_trilinear3d": "trilinear",
            "upsample_bicubic2d": "bicubic",
            "_upsample_bilinear2d_aa": "_up_bilinear",
            "_upsample_bicubic2d_aa": "_up_bicubic",
        }.items()
        for suffix in ("", ".vec")
    },
    _upsample,
)


@lowers("aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten.grid_sampler")
def _lower_grid_sampler(e: Emitter, a: Call) -> Tensor:
    if e.opset < 20 and a.input.rank != 4:
        raise Declined("samples of volumes need opset 20")
    modes = ("linear", "nearest", "cubic") if e.opset >= 20 else ("bilinear", "nearest", "bicubic")
    return e.op(
        "GridSample",
        a.input,
        a.grid,
        mode=modes[a.interpolation_mode],
        padding_mode=("zeros", "border", "reflection")[a.padding_mode],
        align_corners=int(a.align_corners),
    )


@lowers("aten.affine_grid_generator")
def _lower_affine_grid(e: Emitter, a: Call) -> Tensor:
    if e.opset < 20:
        raise Declined("grids of affine maps need opset 20")
    return e.op("AffineGrid", a.theta, e.sizes.vector(a.size), align_corners=int(a.align_corners))


@lowers("aten.constant_pad_nd")
def _lower_constant_pad(e: Emitter, a: Call) -> Tensor:
    return pad(e, a.self, a.pad, "constant", a.value)


def _pad(mode: str) -> Lowering:
    return lambda e, a: pad(e, a.self, a.padding, mode, None)


lowers_each({f"aten.reflection_pad{d}d": "reflect" for d in (1, 2, 3)}, _pad)
lowers_each({f"aten.replication_pad{d}d": "edge" for d in (1, 2, 3)}, _pad)


@lowers("aten.pad")
def _lower_pad(e: Emitter, a: Call) -> Tensor:
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[a.mode]
    return pad(e, a.self, a.pad, mode, a.value)


def pad(e: Emitter, x: Tensor, amounts: Sequence[Dim], mode: str, value: Any) -> Tensor:
    """Pad the last dims by `(before, after)` pairs, the last dim first. A negative amount crops."""
    rank = x.rank
    before: list[Dim] = [0] * rank
    after: list[Dim] = [0] * rank
    for index in range(len(amounts) // 2):
        before[rank - 1 - index], after[rank - 1 - index] = amounts[2 * index], amounts[2 * index + 1]
    x = _crop(e, x, before, after)
    before, after = _positive(before), _positive(after)
    if not any(d != 0 for d in (*before, *after)):
        return x
    fill = None if mode != "constant" or not value else as_tensor(e, value, x.dtype)
    return e.op("Pad", x, [*before, *after], fill, mode=None if mode == "constant" else mode)


def _positive(amounts: Sequence[Dim]) -> list[Dim]:
    return [0 if isinstance(d, int) and d < 0 else d for d in amounts]


def _crop(e: Emitter, x: Tensor, before: Sequence[Dim], after: Sequence[Dim]) -> Tensor:
    cut = [(i, b, f) for i, (b, f) in enumerate(zip(before, after)) if _negative(b) or _negative(f)]
    if not cut:
        return x
    starts = [-b if _negative(b) else 0 for _, b, _ in cut]
    ends = [f if _negative(f) else END for _, _, f in cut]
    axes = [axis for axis, _, _ in cut]
    shape = list(x.dims)
    for (axis, _, f), start in zip(cut, starts):
        shape[axis] = shape[axis] - start + (f if _negative(f) else 0)
    return e.op("Slice", x, starts, ends, axes, shape=shape)


def _negative(amount: Dim) -> bool:
    return isinstance(amount, int) and amount < 0


@lowers("aten.im2col")
def _lower_im2col(e: Emitter, a: Call) -> Tensor:
    """The patches of an image as columns: a convolution with a one-hot kernel for each place of the patch."""
    if a.self.rank != 4:
        raise Declined("im2col without a batch")
    channels = a.self.dims[1]
    kernel = [int(k) for k in a.kernel_size]
    places = kernel[0] * kernel[1]
    if not isinstance(channels, int):
        raise Declined("im2col with a dynamic number of channels")
    one_hot = torch.eye(places, dtype=a.self.dtype.torch).reshape(places, 1, *kernel).repeat(channels, 1, 1, 1)
    y = e.op(
        "Conv",
        a.self,
        e.constant(one_hot, "patches"),
        kernel_shape=kernel,
        strides=list(a.stride),
        pads=list(a.padding) * 2,
        dilations=list(a.dilation),
        group=channels,
    )
    return e.op("Reshape", y, [0, channels * places, -1])


@lowers("aten.col2im")
def _lower_col2im(e: Emitter, a: Call) -> Tensor:
    x = a.self if a.self.rank == 3 else unsqueeze(e, a.self, [0])
    y = e.op(
        "Col2Im",
        x,
        list(a.output_size),
        list(a.kernel_size),
        strides=list(a.stride),
        pads=list(a.padding) * 2,
        dilations=list(a.dilation),
    )
    return y if x is a.self else e.op("Squeeze", y, [0])
