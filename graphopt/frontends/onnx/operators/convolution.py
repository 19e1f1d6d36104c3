"""Convolutions."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, Declined, numbers_of, tensor_type, translates
from graphopt.frontends.onnx.operators.windows import interleaved, is_plain, padding
from graphopt.ir import Value


@translates("Conv")
def conv(a: Application) -> Value:
    """A convolution; padding that differs before and after a dim is a node of its own."""
    return convolution(a, a[0], a[1], a.get(2))


def convolution(a: Application, x: Value, weight: Value, bias: Value | None) -> Value:
    """Emit a convolution with the attributes of the node."""
    kernel = _kernel(a, weight)
    rank = len(kernel)
    strides, dilations = _attributes(a, rank)
    before, after = padding(a, list(tensor_type(x).shape[2:]), kernel, strides, dilations)
    if not is_plain(before, after):
        x = a.emit("aten.constant_pad_nd", x, interleaved(before, after), 0)
        before = [0] * rank
    return a.emit(f"aten.conv{rank}d", x, weight, bias, strides, before, dilations, a.attr("group", 1))


def _kernel(a: Application, weight: Value) -> list[int]:
    kernel = [d for d in tensor_type(weight).shape[2:] if isinstance(d, int)]
    if not 1 <= len(kernel) <= 3 or len(kernel) != tensor_type(weight).rank - 2:
        raise Declined(f"{a.name} over {tensor_type(weight).rank - 2} dims")
    return kernel


def _attributes(a: Application, rank: int) -> tuple[list[int], list[int]]:
    return list(a.attr("strides") or [1] * rank), list(a.attr("dilations") or [1] * rank)


@translates("ConvTranspose")
def conv_transpose(a: Application) -> Value:
    """A transposed convolution: out = (size − 1)·stride + output_padding + extent − padding before − padding after."""
    x, weight, bias = a[0], a[1], a.get(2)
    kernel = _kernel(a, weight)
    rank = len(kernel)
    strides, dilations = _attributes(a, rank)
    extra = list(a.attr("output_padding") or [0] * rank)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    before, after = _transposed_padding(a, x, strides, extents, extra)
    name = f"aten.conv_transpose{rank}d" + (".input" if rank > 1 else "")
    group = a.attr("group", 1)
    plain = before == after and min(before) >= 0
    if plain and all(p < max(s, d) for p, s, d in zip(extra, strides, dilations)):
        return a.emit(name, x, weight, bias, strides, before, extra, group, dilations)
    # PyTorch pads both sides alike: crop the whole result; what lies beyond it is the bias alone.
    whole = a.emit(name, x, weight, None, strides, [0] * rank, [0] * rank, group, dilations)
    crop = interleaved([-b for b in before], [p - e for e, p in zip(after, extra)])
    fitted = a.emit("aten.constant_pad_nd", whole, crop, 0)
    if bias is None:
        return fitted
    return a.emit("aten.add.Tensor", fitted, a.emit("aten.reshape", bias, (-1, *[1] * rank)))


def _transposed_padding(
    a: Application, x: Value, strides: list[int], extents: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    rank, shape, mode = len(strides), a.attr("output_shape"), a.attr("auto_pad", "NOTSET")
    if shape is None and mode in ("NOTSET", "VALID", ""):
        pads = a.attr("pads") or [0] * (2 * rank)
        return list(pads[:rank]), list(pads[rank:])
    sizes = numbers_of(tensor_type(x).shape[2:], f"{a.name} to an output shape")
    target = list(shape[-rank:]) if shape is not None else [d * s for d, s in zip(sizes, strides)]
    before, after = [], []
    for size, stride, extent, add, out in zip(sizes, strides, extents, extra, target):
        total = (size - 1) * stride + add + extent - out
        small, large = total // 2, total - total // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after
