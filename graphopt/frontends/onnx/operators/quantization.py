"""Quantization: to and from quantized numbers, and products of integers."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.windows import padding
from graphopt.ir import DType, Value
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE
from graphopt.ops.quantization import find_format


@translates("QuantizeLinear")
def quantize_linear(a: Application) -> Value:
    """saturate(round(x / scale) + zero point); in the zero point's type, else as the attribute says, else uint8."""
    x, scale, zero = a[0], a[1], a.get(2)
    code = a.attr("output_dtype", 0)
    dtype = tensor_type(zero).dtype if zero is not None else FROM_ONNX_CODE[code] if code else DType.U8
    if not tensor_type(x).dtype.is_floating:
        x = a.cast(x, DType.F32)
    axis, block_size = _granularity(a)
    precision = _precision(a, tensor_type(x).dtype, tensor_type(scale).dtype)
    if precision is not DType.F32:
        x, scale, axis, block_size = _divided(a, x, scale, precision, axis, block_size)
    return a.emit(
        "graphopt.quantize",
        x,
        _floating(a, scale),
        zero,
        find_format(dtype).name,
        axis,
        block_size,
        bool(a.attr("saturate", 1)),
    )


@translates("DequantizeLinear")
def dequantize_linear(a: Application) -> Value:
    """(x − zero point) · scale, in the scale's type unless the attribute names another."""
    scale, code = a[1], a.attr("output_dtype", 0)
    axis, block_size = _granularity(a)
    name = find_format(a.type(0).dtype).name
    wanted = FROM_ONNX_CODE[code] if code else None
    return a.emit("graphopt.dequantize", a[0], _floating(a, scale), a.get(2), name, axis, block_size, wanted)


def _granularity(a: Application) -> tuple[int | None, int]:
    """The axis, or None if one number serves the whole tensor; and the size of a block.

    Blocks that cover several elements unevenly follow from the shapes if the size is not written.
    """
    scale = a.type(1)
    block_size = int(a.attr("block_size", 0))
    if not scale.shape or (scale.shape == (1,) and not block_size):
        return None, 0
    return int(a.attr("axis", 1)) if a.type(0).rank > 1 else 0, block_size


def _floating(a: Application, scale: Value) -> Value:
    """Powers of two as f8e8m0 are numbers in single precision."""
    dtype = tensor_type(scale).dtype
    if dtype is DType.F8E8M0:
        return a.cast(scale, DType.F32)
    if not dtype.is_floating:
        raise Declined(f"{a.name} with a scale of type {dtype.value}")
    return scale


def _precision(a: Application, x: DType, scale: DType) -> DType:
    """What the quotient is rounded to: from version 23 on the scale's type, unless the attribute names another."""
    code = a.attr("precision", 0)
    return FROM_ONNX_CODE[code] if code else scale if a.version >= 23 and scale is x else DType.F32


def _divided(
    a: Application, x: Value, scale: Value, precision: DType, axis: int | None, block_size: int
) -> tuple[Value, Value, int | None, int]:
    """The quotient, and a scale of 1."""
    if block_size:
        raise Declined(f"{a.name} in blocks with a quotient in {precision.value}")
    shape = () if axis is None else [-1 if i == axis % a.type(0).rank else 1 for i in range(a.type(0).rank)]
    quotient = a.emit("aten.div.Tensor", a.cast(x, precision), a.reshape(a.cast(scale, precision), shape))
    if axis is None:
        return quotient, a.scalar(1.0, quotient), None, 0
    return quotient, a.emit("aten.ones_like", a.cast(scale, precision)), axis, 0


@translates("DynamicQuantizeLinear")
def dynamic_quantize_linear(a: Application) -> tuple[Value, ...]:
    """uint8 over the range of the tensor."""
    return a.emit_all("graphopt.dynamic_quantize", a[0])


@translates("MatMulInteger")
def matmul_integer(a: Application) -> Value:
    """(A − a₀)·(B − b₀) in 32-bit integers; a₀ may be one number a row, b₀ one a column."""
    return a.emit("graphopt.matmul_integer", a[0], a[1], a.get(2), a.get(3))


@translates("QLinearMatMul")
def qlinear_matmul(a: Application) -> Value:
    """saturate(round((A − a₀)·(B − b₀) · s_a·s_b / s_y) + y₀), the sums exact."""
    sums = a.emit("graphopt.matmul_integer", a[0], a[3], a.get(2), a.get(5))
    factor = _factor(a, _per_row(a, a[1]), a[4], a[6])
    return a.emit("graphopt.requantize", sums, factor, a.get(7), find_format(a.type(7).dtype).name)


def _per_row(a: Application, scale: Value) -> Value:
    shape = tensor_type(scale).shape
    return a.emit("aten.unsqueeze", scale, -1) if len(shape) == 1 and shape != (1,) else scale


def _factor(a: Application, *scales: Value) -> Value:
    """s_x · s_w / s_y in single precision."""
    x, w, y = [a.cast(scale, DType.F32) for scale in scales]
    return a.emit("aten.div.Tensor", a.emit("aten.mul.Tensor", x, w), y)


@translates("ConvInteger")
def conv_integer(a: Application) -> Value:
    """The convolution of (x − x₀) and (w − w₀) in 32-bit integers."""
    return _convolution(a, a[0], a[1], None, a.get(2), a.get(3))


@translates("QLinearConv")
def qlinear_conv(a: Application) -> Value:
    """saturate(round(((x − x₀) ∗ (w − w₀) + b) · s_x·s_w / s_y) + y₀), the sums exact."""
    x, weight = a[0], a[3]
    sums = _convolution(a, x, weight, a.get(8), a.get(2), a.get(5))
    scale = a[4]
    if tensor_type(scale).rank == 1:
        scale = a.emit("aten.reshape", scale, (-1, *[1] * (tensor_type(x).rank - 2)))
    factor = _factor(a, _one_number(a, a[1]), scale, _one_number(a, a[6]))
    return a.emit("graphopt.requantize", sums, factor, a.get(7), find_format(a.type(7).dtype).name)


def _one_number(a: Application, scale: Value) -> Value:
    return a.reshape(scale, ())


def _convolution(
    a: Application, x: Value, weight: Value, bias: Value | None, x_zero: Value | None, weight_zero: Value | None
) -> Value:
    sizes = tensor_type(weight).shape[2:]
    kernel = [d for d in sizes if isinstance(d, int)]
    if not 1 <= len(kernel) <= 3 or len(kernel) != len(sizes):
        raise Declined(f"{a.name} over {len(sizes)} dims")
    ones = [1] * len(kernel)
    strides, dilations = list(a.attr("strides") or ones), list(a.attr("dilations") or ones)
    before, after = padding(a, list(tensor_type(x).shape[2:]), kernel, strides, dilations)
    return a.emit(
        "graphopt.conv_integer",
        x,
        weight,
        bias,
        x_zero,
        weight_zero,
        stride=strides,
        padding=[*before, *after],
        dilation=dilations,
        groups=a.attr("group", 1),
    )
