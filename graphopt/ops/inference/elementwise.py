"""Elementwise operators: arithmetic with type promotion, comparisons, activations, selection by mask."""

from __future__ import annotations

from typing import Any

from graphopt.ir import DType, TensorType
from graphopt.ops.inference.promotion import category, float_result, promote, result_type
from graphopt.ops.inference.shapes import Shape, broadcast
from graphopt.ops.inference.table import Result, overloads, rule

_HALF_TO_FULL = {DType.C64: DType.F32, DType.C128: DType.F64}


def _joined(dtype: DType | None, *operands: Any) -> TensorType | None:
    """The broadcast of the tensors among the operands, with a dtype."""
    if dtype is None:
        return None
    tensors = [t for t in operands if isinstance(t, TensorType)]
    shape: Shape = broadcast(*[t.shape for t in tensors])
    return TensorType(dtype, shape, _device(tensors))


def _device(tensors: list[TensorType]) -> str:
    """A scalar on the CPU may meet a tensor on a device; the result lives on the device."""
    for tensor in tensors:
        if tensor.shape or tensor.device != "cpu":
            return tensor.device
    return "cpu"


@rule(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh",
    "sigmoid reciprocal sinc",
)
def float_unary(x: TensorType) -> Result:
    """Real functions: integers become floats, complex stays."""
    return x if category(x.dtype) >= 2 else x.with_dtype(float_result(x) or x.dtype)


@rule("erf erfc erfinv lgamma digamma i0 logit special_erfcx special_entr")
def real_unary(x: TensorType, *_: Any) -> Result:
    """Real functions without a complex version."""
    return None if x.dtype.is_complex else float_unary(x)


@rule("relu sign ceil floor trunc round round.decimals frac deg2rad rad2deg")
def real_same(x: TensorType, *_: Any) -> Result:
    """Functions that keep a real dtype; what they do to integers, fake tensors say."""
    return x if x.dtype.is_floating else None


@rule("neg positive square sgn conj_physical")
def same(x: TensorType) -> Result:
    """Functions that keep every dtype but bool."""
    return x if category(x.dtype) > 0 else None


@rule(
    "gelu silu mish hardswish hardsigmoid softplus elu selu celu leaky_relu hardtanh relu6 log_sigmoid hardshrink",
    "softshrink threshold",
)
def activation(x: TensorType, *_: Any) -> Result:
    """Activations keep the dtype of a float."""
    return x if x.dtype.is_floating else None


@rule("abs absolute")
def absolute(x: TensorType) -> Result:
    """The modulus of complex numbers is real."""
    if x.dtype is DType.BOOL:
        return None
    return x.with_dtype(_HALF_TO_FULL.get(x.dtype, x.dtype))


@rule("bitwise_not")
def bitwise_not(x: TensorType) -> Result:
    """Defined on integers and bool."""
    return x if category(x.dtype) < 2 else None


@rule("logical_not isnan isinf isfinite signbit isposinf isneginf isreal")
def predicate(x: TensorType) -> Result:
    """Predicates give bool."""
    return x.with_dtype(DType.BOOL) if category(x.dtype) < 3 else None


@rule(
    overloads("mul remainder fmod", "Tensor", "Scalar"),
    "remainder.Scalar_Tensor maximum minimum max.other min.other fmax fmin",
)
def arithmetic(a: Any, b: Any) -> Result:
    """Arithmetic in the promoted dtype."""
    return _joined(result_type(a, b), a, b)


@rule("pow.Tensor_Tensor pow.Tensor_Scalar pow.Scalar floor_divide floor_divide.Scalar")
def number_arithmetic(a: Any, b: Any) -> Result:
    """Arithmetic that bools don't have."""
    dtype = result_type(a, b)
    return None if dtype is DType.BOOL else _joined(dtype, a, b)


@rule(overloads("add sub rsub", "Tensor", "Scalar"))
def scaled_arithmetic(a: TensorType, b: Any, alpha: Any = 1) -> Result:
    """a + alpha·b; a float alpha on integers, and bools, are left to PyTorch."""
    dtype = result_type(a, b)
    if dtype is None or (category(dtype) < 2 and (type(alpha) is not int or dtype is DType.BOOL)):
        return None
    return _joined(dtype, a, b)


@rule(overloads("div true_divide", "Tensor", "Scalar"), "atan2 copysign.Tensor copysign.Scalar")
def float_arithmetic(a: TensorType, b: Any) -> Result:
    """Division and its like: integers become floats."""
    return _joined(float_result(a, b), a, b)


@rule("hypot logaddexp")
def floats_only(a: TensorType, b: TensorType) -> Result:
    """Functions of two floats."""
    dtype = result_type(a, b)
    return _joined(dtype, a, b) if dtype is not None and dtype.is_floating else None


@rule("xlogy.Tensor xlogy.Scalar_Other xlogy.Scalar_Self")
def xlogy(a: Any, b: Any) -> Result:
    """a·log(b)."""
    return _joined(float_result(a, b), a, b)


@rule("div.Tensor_mode div.Scalar_mode")
def rounded_division(a: TensorType, b: Any, rounding_mode: str | None) -> Result:
    """Rounded division keeps integers."""
    return number_arithmetic(a, b) if rounding_mode is not None else float_arithmetic(a, b)


@rule(overloads("bitwise_and bitwise_or bitwise_xor", "Tensor", "Scalar", "Scalar_Tensor"))
def bitwise(a: Any, b: Any) -> Result:
    """Defined on integers and bool."""
    dtype = result_type(a, b)
    return None if dtype is None or category(dtype) > 1 else _joined(dtype, a, b)


@rule(overloads("eq ne lt le gt ge", "Tensor", "Scalar"))
def comparison(a: TensorType, b: Any) -> Result:
    """Comparisons give bool."""
    return _joined(DType.BOOL, a, b) if result_type(a, b) is not None else None


@rule("logical_and logical_or logical_xor")
def logical(a: TensorType, b: TensorType) -> Result:
    """Logic on any dtypes gives bool."""
    return _joined(DType.BOOL, a, b)


@rule("where.self where.ScalarOther where.ScalarSelf where.Scalar")
def where(condition: TensorType, a: Any, b: Any) -> Result:
    """Selection by a bool mask."""
    return _joined(result_type(a, b), condition, a, b) if condition.dtype is DType.BOOL else None


@rule("clamp clip clamp.Tensor clip.Tensor")
def clamp(x: TensorType, low: Any = None, high: Any = None) -> Result:
    """Limits take part in promotion."""
    limits = [limit for limit in (low, high) if limit is not None]
    dtype = result_type(x, *limits)
    return None if not limits or dtype is None or category(dtype) in (0, 3) else _joined(dtype, x, *limits)


@rule("clamp_min clamp_max clamp_min.Tensor clamp_max.Tensor")
def clamp_one(x: TensorType, limit: Any) -> Result:
    """One limit."""
    return clamp(x, limit)


@rule("masked_fill.Scalar masked_fill.Tensor")
def masked_fill(x: TensorType, mask: TensorType, value: Any) -> Result:
    """Keeps x's dtype; the mask broadcasts with x."""
    if mask.dtype is not DType.BOOL or (isinstance(value, TensorType) and value.shape):
        return None
    if isinstance(value, TensorType) and promote(value.dtype, x.dtype) is not x.dtype:
        return None
    if not isinstance(value, TensorType) and result_type(x, value) is not x.dtype:
        return None
    return _joined(x.dtype, x, mask)


@rule("lerp.Scalar lerp.Tensor")
def lerp(a: TensorType, b: TensorType, weight: Any) -> Result:
    """a + weight·(b − a), all of one float dtype."""
    if a.dtype is not b.dtype or not a.dtype.is_floating:
        return None
    if isinstance(weight, TensorType) and weight.dtype is not a.dtype:
        return None
    return _joined(a.dtype, a, b, weight)


@rule("addcmul addcdiv")
def add_product(a: TensorType, b: TensorType, c: TensorType, value: Any = 1) -> Result:
    """a + value·b·c (or b/c) on floats."""
    dtype = result_type(a, b, c)
    return _joined(dtype, a, b, c) if dtype is not None and dtype.is_floating else None


@rule("prelu")
def prelu(x: TensorType, weight: TensorType) -> Result:
    """One slope, or one a channel."""
    single = not weight.shape or weight.shape == (1,)
    return x if x.dtype is weight.dtype and x.dtype.is_floating and single else None


@rule("nan_to_num")
def nan_to_num(x: TensorType, *_: Any) -> Result:
    """Keeps the dtype."""
    return x if not x.dtype.is_complex else None
