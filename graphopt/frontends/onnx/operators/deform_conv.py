"""Deformable convolution: each element of the kernel looks where an offset says.

    y[o, p] = Σ_c Σ_k w[o, c, k] · m[k, p] · x[c, stride·p − pad + dilation·k + offset[k, p]]

with x between elements by lines, and zero outside. The samples are gathered, then multiplied by the kernel.
"""

from __future__ import annotations

import itertools

import torch

from graphopt.frontends.onnx.application import Application, Declined, numbers_of, tensor_type, translates
from graphopt.frontends.onnx.operators.interpolation import sampled
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import product
from graphopt.ir.dims import Dim, exact_div


@translates("DeformConv")
def deform_conv(a: Application) -> Value:
    """A deformable convolution over any number of dims."""
    a.compose()
    x, weight = a[0], a[1]
    batch, channels, *_ = tensor_type(x).shape
    outputs, inputs, *kernel = numbers_of(tensor_type(weight).shape, "the kernel")
    group, groups = a.attr("group", 1), a.attr("offset_group", 1)
    places, each = tensor_type(a[2]).shape[2:], exact_div(channels, groups)
    if each is None or outputs % group:
        raise Declined(f"{channels} and {outputs} channels in groups of other sizes")
    taps, count = product(kernel), product(places)
    images = a.reshape(x, (batch * groups, each, *tensor_type(x).shape[2:]))
    points = _points(a, kernel, batch * groups, places)
    samples = a.reshape(sampled(a, images, points, "linear"), (batch, groups, each, taps, count))
    if a.has(4):
        samples = a.emit("aten.mul.Tensor", samples, a.reshape(a[4], (batch, groups, 1, taps, count)))
    columns = a.reshape(samples, (batch, group, inputs * taps, count))
    rows = a.reshape(weight, (group, outputs // group, inputs * taps))
    y = a.reshape(a.emit("aten.matmul", rows, columns), (batch, outputs, *places))
    if not a.has(3):
        return y
    return a.emit("aten.add.Tensor", y, a.reshape(a[3], (outputs, *[1] * len(kernel))))


def _points(a: Application, kernel: list[int], images: Dim, places: tuple[Dim, ...]) -> list[Value]:
    """Where each element of the kernel looks at each place, dim by dim: `[images, taps·places]`."""
    rank = len(kernel)
    strides, dilations = (a.attr(name) or [1] * rank for name in ("strides", "dilations"))
    before = (a.attr("pads") or [0] * (2 * rank))[:rank]
    taps = list(itertools.product(*map(range, kernel)))
    dtype = DType.F64 if a.type(2).dtype is DType.F64 else DType.F32
    offsets = a.reshape(a.cast(a[2], dtype), (images, len(taps), rank, *places))
    result = []
    for dim in range(rank):
        regular = a.emit("aten.arange", places[dim], dtype=dtype)
        regular = a.emit("aten.sub.Scalar", a.emit("aten.mul.Scalar", regular, strides[dim]), before[dim])
        within = torch.tensor([tap[dim] * dilations[dim] for tap in taps], dtype=dtype.torch)
        steps = a.reshape(regular, [places[dim] if i == dim else 1 for i in range(rank)])
        centre = a.emit("aten.add.Tensor", a.constant(within.reshape(-1, *[1] * rank)), steps)
        point = a.emit("aten.add.Tensor", a.emit("aten.select.int", offsets, 2, dim), centre)
        result.append(a.reshape(point, (images, len(taps) * product(places))))
    return result
