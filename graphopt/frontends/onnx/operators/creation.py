"""Tensors out of nothing: constants, ranges, fills, windows, random numbers."""

from __future__ import annotations

import math

import numpy as np
import torch

from graphopt.frontends.onnx.application import (
    SMALL,
    Application,
    Declined,
    NeedsValue,
    listable,
    tensor_type,
    translates,
)
from graphopt.frontends.onnx.entries import Entry, Known, as_array
from graphopt.ir import DType, Value, from_torch
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE

NUMBERS = {
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}


@translates("Constant")
def constant(a: Application) -> Value:
    """A stored tensor, number or list."""
    if a.attr("value") is not None:
        return a.constant(a.attr("value"), a.node.output[0])
    for name, dtype in NUMBERS.items():
        if a.attr(name) is not None:
            return a.constant(torch.tensor(a.attr(name), dtype=dtype), a.node.output[0])
    raise Declined("constants that are strings or sparse")


@translates("ConstantOfShape")
def constant_of_shape(a: Application) -> Entry:
    """A tensor of one value."""
    value = a.attr("value")
    fill = torch.zeros(1) if value is None else value.reshape(-1)
    shape = a.sizes(0)
    numbers = [d for d in shape if isinstance(d, int)]
    if len(numbers) == len(shape) and math.prod(numbers) <= SMALL:
        return a.constant(fill[0].repeat(numbers))
    return a.emit("aten.full", shape, fill[0].item(), dtype=from_torch(fill.dtype))


@translates("Range")
def range_(a: Application) -> Entry:
    """start, start + delta, … below limit. Small ranges of integers are known."""
    found = [a.contents(i) for i in range(3)]
    dtype = a.type(0).dtype
    if all(f is not None for f in found):
        start, limit, delta = (f.flat[0] for f in found if f is not None)
        if isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int):
            positions = range(start, limit, delta)
            if len(positions) <= 1024:
                return Known(as_array(positions), dtype)
    elif any(a[i].constant is None for i in range(3)):
        return _computed_range(a, dtype)
    else:
        start, limit, delta = (a.numbers(i)[0] for i in range(3))
    return a.emit("aten.arange.start_step", start, limit, delta, dtype=dtype)


def _computed_range(a: Application, dtype: DType) -> Value:
    """A range whose bounds are computed as the model runs: start + delta·(0, 1, …), ⌈(limit − start)/delta⌉ of them."""
    for i in range(3):
        if a[i].is_input:
            raise NeedsValue(a.node.input[i], a.name)
    wide = dtype if dtype in (DType.F64, DType.I64) else DType.F64 if dtype.is_floating else DType.I64
    start, limit, delta = (a.cast(a.reshape(a[i], ()), wide) for i in range(3))
    # ⌈x/y⌉ = −⌊−x/y⌋ holds for integers, too.
    negative = a.emit("aten.div.Tensor_mode", a.emit("aten.sub.Tensor", start, limit), delta, rounding_mode="floor")
    count = a.emit("aten.clamp", a.cast(a.emit("aten.neg", negative), DType.I64), 0)
    steps = a.cast(a.emit("aten.arange", a.size(count), dtype=DType.I64), wide)
    return a.cast(a.emit("aten.add.Tensor", a.emit("aten.mul.Tensor", steps, delta), start), dtype)


@translates("EyeLike")
def eye_like(a: Application) -> Value:
    """Ones on the k-th diagonal."""
    type_ = a.type(0)
    code = a.attr("dtype")
    dtype = FROM_ONNX_CODE[code] if code is not None else type_.dtype
    rows = a.emit("aten.unsqueeze", a.emit("aten.arange", type_.shape[0], dtype=DType.I64), 1)
    columns = a.emit("aten.arange", type_.shape[1], dtype=DType.I64)
    shifted = a.emit("aten.add.Scalar", rows, a.attr("k", 0))
    return a.cast(a.emit("aten.eq.Tensor", shifted, columns), dtype)


@translates("OneHot")
def one_hot(a: Application) -> Value:
    """`values[1]` at the index, `values[0]` elsewhere, along a new dim. Negative indices count from the end."""
    a.compose()
    floating, axis = a.type(1).dtype.is_floating, a.attr("axis", -1)
    depth = int(a.numbers(1)[0]) if floating else a.sizes(1)[0]
    indices = a.cast(a[0], DType.I64)
    rank = tensor_type(indices).rank
    axis = axis % (rank + 1)
    wrapped = a.emit(
        "aten.where.self", a.emit("aten.lt.Scalar", indices, 0), a.emit("aten.add.Scalar", indices, depth), indices
    )
    classes = a.emit("aten.arange", depth, dtype=DType.I64)
    classes = a.reshape(classes, [depth if i == axis else 1 for i in range(rank + 1)])
    hot = a.emit("aten.eq.Tensor", a.emit("aten.unsqueeze", wrapped, axis), classes)
    values = a[2]
    off, on = (a.emit("aten.select.int", values, 0, i) for i in range(2))
    return a.emit("aten.where.self", hot, on, off)


@translates("HannWindow", "HammingWindow", "BlackmanWindow")
def window(a: Application) -> Value:
    """A window function of constant length."""
    size, periodic = listable(int(a.numbers(0)[0]), "a window"), a.attr("periodic", 1)
    count = size if periodic else size - 1
    phase = 2 * np.pi * np.arange(size) / max(count, 1)
    if a.name == "HannWindow":
        values = 0.5 - 0.5 * np.cos(phase)
    elif a.name == "HammingWindow":
        values = 25 / 46 - 21 / 46 * np.cos(phase)
    else:
        values = 0.42 - 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase)
    dtype = FROM_ONNX_CODE[a.attr("output_datatype", 1)]
    return a.constant(torch.from_numpy(values).to(dtype.torch))
