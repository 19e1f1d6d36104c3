"""Arithmetic, comparisons, logic, activations and casts."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch

from graphopt.frontends.onnx.application import Application, Declined, tensor_type, translates
from graphopt.frontends.onnx.operators.unsigned import (
    as_signed,
    divided,
    from_signed,
    is_unsigned,
    ordered,
    shifted_right,
)
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import product
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE

UNARY = {
    "Abs": "aten.abs",
    "Acos": "aten.acos",
    "Acosh": "aten.acosh",
    "Asin": "aten.asin",
    "Asinh": "aten.asinh",
    "Atan": "aten.atan",
    "Atanh": "aten.atanh",
    "BitwiseNot": "aten.bitwise_not",
    "Ceil": "aten.ceil",
    "Cos": "aten.cos",
    "Cosh": "aten.cosh",
    "Erf": "aten.erf",
    "Exp": "aten.exp",
    "Floor": "aten.floor",
    "HardSwish": "aten.hardswish",
    "IsNaN": "aten.isnan",
    "Log": "aten.log",
    "Neg": "aten.neg",
    "Not": "aten.logical_not",
    "Reciprocal": "aten.reciprocal",
    "Relu": "aten.relu",
    "Round": "aten.round",  # both round half to even
    "Sigmoid": "aten.sigmoid",
    "Sin": "aten.sin",
    "Sinh": "aten.sinh",
    "Softsign": "aten.softsign",
    "Sqrt": "aten.sqrt",
    "Tan": "aten.tan",
    "Tanh": "aten.tanh",
}
BINARY = {
    "Add": "aten.add.Tensor",
    "And": "aten.logical_and",
    "BitwiseAnd": "aten.bitwise_and.Tensor",
    "BitwiseOr": "aten.bitwise_or.Tensor",
    "BitwiseXor": "aten.bitwise_xor.Tensor",
    "Equal": "aten.eq.Tensor",
    "Greater": "aten.gt.Tensor",
    "GreaterOrEqual": "aten.ge.Tensor",
    "Less": "aten.lt.Tensor",
    "LessOrEqual": "aten.le.Tensor",
    "Mul": "aten.mul.Tensor",
    "Or": "aten.logical_or",
    "Sub": "aten.sub.Tensor",
    "Xor": "aten.logical_xor",
}
ORDERINGS = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
MANY = {"Sum": "aten.add.Tensor", "Max": "aten.maximum", "Min": "aten.minimum"}


@translates(*UNARY)
def unary(a: Application) -> Value:
    """The same function of each element."""
    dtype = a.type(0).dtype
    if a.name == "BitwiseNot":
        return from_signed(a, a.emit(UNARY[a.name], as_signed(a, a[0])), dtype)
    if a.name == "Abs" and is_unsigned(dtype):
        return a[0]
    return a.emit(UNARY[a.name], a[0])


@translates("Sign")
def sign(a: Application) -> Value:
    """1, 0 or −1; what is no number stays so, other than in PyTorch."""
    x, dtype = a[0], a.type(0).dtype
    if is_unsigned(dtype):
        return a.cast(a.emit("aten.ne.Scalar", as_signed(a, x), 0), dtype)
    if dtype.is_integer:
        return a.emit("aten.sign", x)
    a.compose()
    return a.emit("aten.where.self", a.emit("aten.isnan", x), x, a.emit("aten.sign", x))


@translates(*BINARY)
def binary(a: Application) -> Value:
    """The same function of each pair of elements, broadcast as NumPy does."""
    x, y = a[0], a[1]
    if a.name in ORDERINGS:
        return a.emit(BINARY[a.name], ordered(a, x), ordered(a, y))
    if a.name == "Equal":
        return a.emit(BINARY[a.name], as_signed(a, x), as_signed(a, y))
    return from_signed(a, a.emit(BINARY[a.name], as_signed(a, x), as_signed(a, y)), tensor_type(x).dtype)


@translates(*MANY)
def many(a: Application) -> Value:
    """A sum, maximum or minimum of one tensor or more."""
    op, dtype = MANY[a.name], a.type(0).dtype
    if a.name == "Sum" or len(a.inputs) == 1:
        return reduce(lambda x, y: a.emit(op, x, y), a.values())
    result = reduce(lambda x, y: a.emit(op, x, y), [ordered(a, value) for value in a.values()])
    return from_signed(a, ordered(a, result, dtype), dtype)


@translates("Mean")
def mean(a: Application) -> Value:
    """The mean of tensors, element by element."""
    total = reduce(lambda x, y: a.emit("aten.add.Tensor", x, y), a.values())
    return a.emit("aten.div.Tensor", total, a.scalar(len(a.inputs), total))


@translates("Div")
def div(a: Application) -> Value:
    """Integers are divided towards zero, as in C."""
    x, y = as_signed(a, a[0]), as_signed(a, a[1])
    dtype = a.type(0).dtype
    if not dtype.is_integer:
        return a.emit("aten.div.Tensor", x, y)
    if dtype is DType.U64:
        return a.cast(divided(a, x, y)[0], dtype)
    return from_signed(a, a.emit("aten.div.Tensor_mode", x, y, rounding_mode="trunc"), dtype)


@translates("Mod")
def mod(a: Application) -> Value:
    """With fmod=0 the remainder has the sign of the divisor, with fmod=1 that of the dividend."""
    x, y = as_signed(a, a[0]), as_signed(a, a[1])
    dtype = a.type(0).dtype
    if dtype is DType.U64:
        return a.cast(divided(a, x, y)[1], dtype)
    return from_signed(a, a.emit("aten.fmod.Tensor" if a.attr("fmod", 0) else "aten.remainder.Tensor", x, y), dtype)


@translates("Pow")
def power(a: Application) -> Value:
    """The result has the dtype of the base, whatever that of the exponent; it is computed in the wider of the two."""
    x, y = a[0], a[1]
    base, exponent = tensor_type(x).dtype, tensor_type(y).dtype
    if base.is_integer and exponent.is_floating:
        return a.cast(a.emit("aten.pow.Tensor_Tensor", a.cast(x, DType.F64), a.cast(y, DType.F64)), base)
    number = _single(y) if exponent is base or exponent.is_integer else None
    if number is not None and tensor_type(y).rank <= tensor_type(x).rank and not (base.is_integer and number < 0):
        return a.emit("aten.pow.Tensor_Scalar", x, number)
    return a.cast(a.emit("aten.pow.Tensor_Tensor", x, y), base)


def _single(value: Value) -> Any:
    """The number that a stored tensor of one element holds."""
    stored = value.constant
    return stored.tensor.item() if stored is not None and stored.tensor.numel() == 1 else None


@translates("BitShift")
def bit_shift(a: Application) -> Value:
    """Shifts to the right carry in zeros into unsigned integers, the sign into signed ones."""
    dtype, left = a.type(0).dtype, a.attr("direction") == "LEFT"
    if dtype in (DType.U8, DType.U32, DType.U64):  # ONNX Runtime shifts these alone
        a.compose()
    x, y = as_signed(a, a[0]), as_signed(a, a[1])
    if dtype is DType.U64 and not left:
        return a.cast(shifted_right(a, x, y), dtype)
    return from_signed(a, a.emit(f"aten.bitwise_{'left' if left else 'right'}_shift.Tensor", x, y), dtype)


@translates("IsInf")
def is_inf(a: Application) -> Value:
    """Infinities of the asked signs."""
    positive, negative = a.attr("detect_positive", 1), a.attr("detect_negative", 1)
    if positive and negative:
        return a.emit("aten.isinf", a[0])
    if not positive and not negative:
        return a.emit("aten.zeros_like", a[0], dtype=DType.BOOL)
    return a.emit("aten.isposinf" if positive else "aten.isneginf", a[0])


@translates("Cast", "CastLike")
def cast(a: Application) -> Value:
    """Conversion of dtype. To integers it truncates; to f8 it saturates, unless told otherwise."""
    target = a.type(1).dtype if a.name == "CastLike" else FROM_ONNX_CODE.get(a.attr("to"))
    if target is None or target in (DType.STRING, DType.U4, DType.I4):
        raise Declined(f"there is no cast to {target.value if target else a.attr('to')} in PyTorch")
    if target.value.startswith("f8") and a.attr("saturate", 1):
        most = torch.finfo(target.torch).max
        return a.cast(a.emit("aten.clamp", a[0], -most, most), target)
    if target is DType.F8E4M3FN and a.type(0).dtype.is_floating:  # PyTorch saturates; 464 is half-way to overflow
        over = a.emit("aten.gt.Scalar", a.emit("aten.abs", a[0]), 464.0)
        return a.cast(a.emit("aten.where.self", over, a.scalar(math.nan, a[0]), a[0]), target)
    return a.cast(a[0], target)


@translates("Identity")
def identity(a: Application) -> Any:
    """The operand itself, of any kind."""
    return [a.inputs[0]]


@translates("BitCast")
def bit_cast(a: Application) -> Value:
    """The same bits as another type of the same width."""
    own, target = a.type(0).dtype, FROM_ONNX_CODE[a.attr("to")]
    if own.bits != target.bits or own.bits < 8 or target is DType.STRING:
        raise Declined(f"the bits of {own.value} as {target.value}")
    return a.emit("aten.view.dtype", a[0], target)


@translates("Where")
def where(a: Application) -> Value:
    """x where the condition holds, else y."""
    return a.emit("aten.where.self", a[0], a[1], a[2])


@translates("Clip")
def clip(a: Application) -> Value:
    """min(max(x, low), high): attributes up to opset 10, inputs since."""
    if a.version < 11:
        low, high = a.attr("min"), a.attr("max")
        return a[0] if low is None and high is None else a.emit("aten.clamp", a[0], low, high)
    x = a[0]
    if a.has(1):
        x = a.emit("aten.maximum", x, a[1])
    if a.has(2):
        x = a.emit("aten.minimum", x, a[2])
    return x


# Activations


@translates("LeakyRelu")
def leaky_relu(a: Application) -> Value:
    """x, or α·x where negative."""
    return a.emit("aten.leaky_relu", a[0], a.attr("alpha", 0.01))


@translates("PRelu")
def prelu(a: Application) -> Value:
    """x, or slope·x where negative; the slope broadcasts to x. PyTorch knows one slope, or one a channel."""
    x, dims = a[0], list(a.type(1).shape)
    rank, others = tensor_type(x).rank, [d for d in dims if d != 1]
    dims = [*[1] * (rank - len(dims)), *dims]
    by_channel = rank > 1 and len(others) == 1 and dims[1] == others[0] == tensor_type(x).shape[1]
    if tensor_type(x).dtype.is_floating and (not others or by_channel):
        return a.emit("aten.prelu", x, a.reshape(a[1], tuple(others) or (1,)))
    return a.emit("aten.where.self", a.emit("aten.lt.Scalar", x, 0), a.emit("aten.mul.Tensor", x, a[1]), x)


@translates("Elu")
def elu(a: Application) -> Value:
    """x, or α·(exp(x) − 1) where negative."""
    return a.emit("aten.elu", a[0], a.attr("alpha", 1.0))


SELU = (1.6732632423543772, 1.0507009873554805)
"""PyTorch's α and γ, which are ONNX's defaults."""


@translates("Selu")
def selu(a: Application) -> Value:
    """γ·x, or γ·α·(exp(x) − 1) where negative."""
    alpha, gamma = a.attr("alpha", SELU[0]), a.attr("gamma", SELU[1])
    if math.isclose(alpha, SELU[0], rel_tol=1e-7) and math.isclose(gamma, SELU[1], rel_tol=1e-7):
        return a.emit("aten.selu", a[0])
    return a.emit("aten.elu", a[0], alpha, gamma)


@translates("Celu")
def celu(a: Application) -> Value:
    """max(0, x) + min(0, α·(exp(x/α) − 1))."""
    return a.emit("aten.celu", a[0], a.attr("alpha", 1.0))


@translates("Softplus")
def softplus(a: Application) -> Value:
    """log(1 + exp(x))."""
    return a.emit("aten.softplus", a[0])


@translates("Gelu")
def gelu(a: Application) -> Value:
    """x·Φ(x), or its approximation by tanh."""
    return a.emit("aten.gelu", a[0], approximate=a.attr("approximate", "none"))


@translates("Mish")
def mish(a: Application) -> Value:
    """x·tanh(softplus(x))."""
    return a.emit("aten.mish", a[0])


@translates("Swish")
def swish(a: Application) -> Value:
    """x·sigmoid(α·x)."""
    alpha = a.attr("alpha", 1.0)
    if alpha == 1:
        return a.emit("aten.silu", a[0])
    return a.emit("aten.mul.Tensor", a[0], a.emit("aten.sigmoid", a.emit("aten.mul.Scalar", a[0], alpha)))


@translates("HardSigmoid")
def hard_sigmoid(a: Application) -> Value:
    """max(0, min(1, α·x + β)); with α = 1/6 and β = 1/2 it is PyTorch's."""
    alpha, beta = a.attr("alpha", 0.2), a.attr("beta", 0.5)
    if beta == 0.5 and math.isclose(alpha, 1 / 6, rel_tol=1e-6):
        return a.emit("aten.hardsigmoid", a[0])
    line = a.emit("aten.add.Scalar", a.emit("aten.mul.Scalar", a[0], alpha), beta)
    return a.emit("aten.clamp", line, 0.0, 1.0)


@translates("ThresholdedRelu")
def thresholded_relu(a: Application) -> Value:
    """x where it is above α, else 0, also where it is no number, other than in PyTorch."""
    a.compose()
    x = a[0]
    return a.emit("aten.where.self", a.emit("aten.gt.Scalar", x, a.attr("alpha", 1.0)), x, a.scalar(0, x))


@translates("Shrink")
def shrink(a: Application) -> Value:
    """x + bias below −λ, x − bias above λ, else 0."""
    a.compose()
    x, lambd, bias = as_signed(a, a[0]), a.attr("lambd", 0.5), a.attr("bias", 0.0)
    zero = a.emit("aten.zeros_like", x)
    low = a.emit("aten.where.self", a.emit("aten.lt.Scalar", x, -lambd), _shifted(a, x, bias), zero)
    result = a.emit("aten.where.self", a.emit("aten.gt.Scalar", x, lambd), _shifted(a, x, -bias), low)
    return from_signed(a, result, a.type(0).dtype)


def _shifted(a: Application, x: Value, by: float) -> Value:
    return a.emit("aten.add.Tensor", x, a.constant(torch.tensor(by).to(tensor_type(x).dtype.torch)))


@translates("Softmax", "LogSoftmax", "Hardmax")
def softmax(a: Application) -> Value:
    """Over one dim since opset 13; before, over all dims from `axis` on, as if flattened."""
    x = a[0]
    type_ = tensor_type(x)
    axis = a.attr("axis", -1 if a.version >= 13 else 1)
    if a.version < 13 and axis not in (-1, type_.rank - 1):
        axis += type_.rank if axis < 0 else 0
        lead = type_.shape[:axis]
        flat = a.emit("aten.reshape", x, (*lead, product(type_.shape[axis:])))
        return a.emit("aten.reshape", _softmax(a, flat, -1), type_.shape)
    return _softmax(a, x, axis)


def _softmax(a: Application, x: Value, axis: int) -> Value:
    if a.name == "Softmax":
        return a.emit("aten.softmax.int", x, axis)
    if a.name == "LogSoftmax":
        return a.emit("aten.log_softmax.int", x, axis)
    a.compose()
    chosen = a.emit("aten.argmax", x, axis, True)
    zero, one = a.emit("aten.zeros_like", x), a.scalar(1, x)
    return a.emit("aten.scatter.src", zero, axis, chosen, a.emit("aten.expand", one, tensor_type(chosen).shape))
