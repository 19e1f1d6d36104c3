"""Products of integers: `MatMulInteger`, `ConvInteger`; with the scaling behind them `QLinearMatMul`, `QLinearConv`."""

from __future__ import annotations

from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.quantization import narrowed, one_number, zeros
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import reshape
from graphopt.ir import DType, Node, Value
from graphopt.ops.quantization import find_format


@lowers("graphopt.dynamic_quantize")
def _lower_dynamic_quantize(e: Emitter, a: Call) -> tuple[Tensor, ...]:
    x = e.cast(a.input, DType.F32)
    dtypes = (DType.U8, DType.F32, DType.U8)
    return e.ops("DynamicQuantizeLinear", x, dtypes=dtypes, shapes=(x.shape, (), ()))


@lowers("graphopt.matmul_integer")
def _lower_matmul_integer(e: Emitter, a: Call) -> Tensor:
    zero_points = (a.a_zero_point, a.b_zero_point)
    return e.op("MatMulInteger", a.a, a.b, *zero_points, dtype=DType.I32, shape=a.out.shape)


@lowers("graphopt.conv_integer")
def _lower_conv_integer(e: Emitter, a: Call) -> Tensor:
    zero_points = (a.input_zero_point, a.weight_zero_point)
    y = e.op("ConvInteger", a.input, a.weight, *zero_points, dtype=DType.I32, shape=a.out.shape, **_window(a))
    if a.bias is None:
        return y
    return e.op("Add", y, reshape(e, a.bias, (a.bias.dims[0], *(1,) * (a.weight.rank - 2))))


def _window(a: Call) -> dict[str, Any]:
    window: dict[str, Any] = {"strides": a.stride, "pads": a.padding, "dilations": a.dilation}
    return {name: list(value) for name, value in window.items() if value} | {"group": a.groups}


@lowers("graphopt.requantize")
def _lower_requantize(e: Emitter, a: Call) -> Tensor:
    """With the product that it follows, `QLinearConv` or `QLinearMatMul`; else by single operators."""
    format_ = find_format(a.dtype)
    zero = None if a.zero_point is None else narrowed(e, one_number(e, a.zero_point), format_)
    zero = zero or zeros(e, format_.dtype, ())
    sums = a.node.operands[0]
    product = None if sums is None else sums.producer
    raised = None if product is None else _with_product(e, a, product, zero)
    if raised is not None:
        return raised
    scaled = e.op("Mul", e.cast(a.input, DType.F32), e.cast(a.scale, DType.F32), shape=a.out.shape)
    return e.op("QuantizeLinear", scaled, 1.0, zero, dtype=format_.dtype, shape=a.out.shape)


def _with_product(e: Emitter, a: Call, product: Node, zero: Tensor) -> Tensor | None:
    """All scales in that of the weight; None if the operator cannot say it."""
    if product.op.name not in _RAISED or product.results[0].num_uses != 1:
        return None
    op_type, weight_name, names = _RAISED[product.op.name]
    arguments = product.arguments()
    x, weight = _operand(e, product.operands[0]), e.tensor(arguments[weight_name])
    scale = _for_channels(e, a, op_type)
    if scale is None or x is None or x.dtype is not a.out.dtype:
        return None
    x_zero, weight_zero, bias = (_operand(e, arguments.get(name)) for name in names)
    one = e.scalar(1.0, DType.F32)
    inputs = [x, one, x_zero or zeros(e, x.dtype, ()), weight, scale]
    inputs += [weight_zero or zeros(e, weight.dtype, scale.dims), one, zero]
    window = _window(Call(product, arguments)) if op_type == "QLinearConv" else {}
    if bias is not None:
        inputs.append(bias)
    return e.op(op_type, *inputs, dtype=a.out.dtype, shape=a.out.shape, **window)


_RAISED = {
    "graphopt.conv_integer": ("QLinearConv", "weight", ("input_zero_point", "weight_zero_point", "bias")),
    "graphopt.matmul_integer": ("QLinearMatMul", "b", ("a_zero_point", "b_zero_point", "")),
}


def _operand(e: Emitter, value: Value | None) -> Tensor | None:
    return None if value is None else e.tensor(value)


def _for_channels(e: Emitter, a: Call, op_type: str) -> Tensor | None:
    """The factor as one number, or as a vector with one for each output channel or column."""
    scale: Tensor = a.scale
    if all(d == 1 for d in scale.dims):
        return e.cast(one_number(e, scale), DType.F32)
    axis = 1 if op_type == "QLinearConv" else a.out.rank - 1
    padded = (1,) * (a.out.rank - scale.rank) + scale.dims
    if scale.data is None or any(d != 1 for i, d in enumerate(padded) if i != axis):
        return None
    return e.cast(e.derived(scale, "vector", lambda data: data.reshape(-1)), DType.F32)
