"""Quantization as operators of the IR's `graphopt` dialect, with the schemas and the meaning of `torch.ops.graphopt`.

A quantized value has the IR type of its format (`i4`, `u8`, `f8e4m3fn`), and in PyTorch a tensor of `DType.storage`.
`dequantize` and `fake_quantize` of a stored tensor are not folded, since that would undo the storage: `DECODES`.
"""

from __future__ import annotations

from graphopt.ir import DType, TensorType, Trait
from graphopt.ir.dims import Dim
from graphopt.ops.inference import Mismatch
from graphopt.ops.quantization import integer, library  # noqa: F401  (they register with PyTorch)
from graphopt.ops.quantization.formats import Format, find_format
from graphopt.ops.torch_dialects import register_torch_op


def infer_quantize(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None,
    dtype: str,
    axis: int | None,
    block_size: int,
    saturate: bool,
) -> TensorType:
    """The format's type, in the shape of the input."""
    format_ = _checked(x, scale, zero_point, dtype, axis, block_size)
    if not x.dtype.is_floating:
        raise Mismatch(f"it quantizes floating-point numbers, not {x.dtype.value}")
    return x.with_dtype(format_.dtype)


def infer_dequantize(
    q: TensorType,
    scale: TensorType,
    zero_point: TensorType | None,
    dtype: str,
    axis: int | None,
    block_size: int,
    output_dtype: DType | None,
) -> TensorType:
    """The scale's dtype, unless another is asked for."""
    format_ = _checked(q, scale, zero_point, dtype, axis, block_size)
    if q.dtype is not format_.dtype and q.dtype.storage is not format_.storage:
        raise Mismatch(f"{format_.name} numbers have type {format_.dtype.value}, not {q.dtype.value}")
    return q.with_dtype(output_dtype or scale.dtype)


def infer_fake_quantize(
    x: TensorType, scale: TensorType, zero_point: TensorType | None, dtype: str, axis: int | None, block_size: int
) -> TensorType:
    """The type of the input."""
    return infer_quantize(x, scale, zero_point, dtype, axis, block_size, True).with_dtype(x.dtype)


def _checked(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType | None,
    dtype: str,
    axis: int | None,
    block_size: int,
) -> Format:
    format_ = find_format(dtype)
    if not scale.dtype.is_floating:
        raise Mismatch(f"the scale is {scale.dtype.value}, no floating-point type")
    wanted = _parameter_shape(x, axis, block_size)
    for what, parameter in (("scale", scale), ("zero point", zero_point)):
        if parameter is None:
            continue
        fits = _is_one(parameter) if wanted is None else _may_equal(parameter.shape, wanted)
        if not fits:
            text = "one number" if wanted is None else f"shape [{', '.join(map(str, wanted))}]"
            raise Mismatch(f"the {what} of {x!r} should have {text}, it has shape {list(parameter.shape)}")
    if zero_point is not None and zero_point.dtype.storage is not format_.storage:
        raise Mismatch(f"the zero point is {zero_point.dtype.value}, the numbers are {format_.dtype.value}")
    return format_


def _parameter_shape(x: TensorType, axis: int | None, block_size: int) -> tuple[Dim, ...] | None:
    """The shape of the scale; None if it is one number, in any form."""
    if axis is None:
        return None
    if not -x.rank <= axis < x.rank:
        raise Mismatch(f"axis {axis} is none of {x!r}")
    axis %= x.rank
    if not block_size:
        return (x.shape[axis],)
    return (*x.shape[:axis], (x.shape[axis] + block_size - 1) // block_size, *x.shape[axis + 1 :])


def _is_one(type_: TensorType) -> bool:
    return all(not isinstance(d, int) or d == 1 for d in type_.shape)


def _may_equal(shape: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> bool:
    """False if the two are known to differ."""
    return len(shape) == len(wanted) and all(
        d == w or not (isinstance(d, int) and isinstance(w, int)) for d, w in zip(shape, wanted)
    )


def infer_requantize(x: TensorType, scale: TensorType, zero_point: TensorType | None, dtype: str) -> TensorType:
    """The format's type, in the shape of the input."""
    if x.dtype is not DType.I32:
        raise Mismatch(f"it takes 32-bit sums, not {x.dtype.value}")
    return x.with_dtype(find_format(dtype).dtype)


register_torch_op("graphopt.quantize", (Trait.PURE, Trait.STEPS), infer_quantize)
register_torch_op("graphopt.dequantize", (Trait.PURE, Trait.DECODES), infer_dequantize)
register_torch_op("graphopt.fake_quantize", (Trait.PURE, Trait.DECODES, Trait.STEPS), infer_fake_quantize)
register_torch_op("graphopt.requantize", (Trait.PURE, Trait.STEPS), infer_requantize)
register_torch_op("graphopt.matmul_integer", (Trait.PURE,))
register_torch_op("graphopt.conv_integer", (Trait.PURE,))
register_torch_op("graphopt.dynamic_quantize", (Trait.PURE, Trait.STEPS))
