"""Quantization as operators of the IR's `graphopt` dialect, with the schemas and the meaning of `torch.ops.graphopt`.

A quantized value has the IR type of its format (`i4`, `u8`, `f8e4m3fn`), and in PyTorch a tensor of `DType.storage`.
`dequantize` and `fake_quantize` of a stored tensor are not folded, since that would undo the storage: `DECODES`.
"""

from __future__ import annotations

from graphopt.ir import DType, TensorType, Trait
from graphopt.ir.dims import Dim
from graphopt.ops.inference import Mismatch
from graphopt.ops.quantization import codebooks, integer, layers, library  # noqa: F401  (they register with PyTorch)
from graphopt.ops.quantization.codebooks import planes
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


def infer_unpack(packed: TensorType, bits: int, size: int) -> TensorType:
    """As many bytes as there are indices."""
    if not 1 <= bits <= 8 or packed.dtype is not DType.U8 or not packed.rank:
        raise Mismatch(f"it takes bytes, and indices of 1 to 8 bits, not {packed!r} and {bits} bits")
    needed = sum(count for _, _, count in planes(bits, size))
    if isinstance(packed.shape[-1], int) and packed.shape[-1] != needed:
        raise Mismatch(f"{size} indices of {bits} bits take {needed} bytes, there are {packed.shape[-1]}")
    return packed.with_shape((*packed.shape[:-1], size))


def infer_lookup(
    indices: TensorType,
    codebook: TensorType,
    scale: TensorType | None,
    group_size: int,
    output_dtype: DType | None,
) -> TensorType:
    """The shape of the indices, each of which stands for as many columns as a code has."""
    if not indices.dtype.is_integer or not codebook.dtype.is_floating:
        raise Mismatch(f"indices are integers and codes floating-point numbers, not {indices!r} and {codebook!r}")
    if codebook.rank != 3 or not indices.rank:
        raise Mismatch(f"a codebook has the shape [groups, codes, d], and indices a dim at least, not {codebook!r}")
    columns = indices.shape[-1] * codebook.shape[-1]
    groups = (indices.shape[0] + group_size - 1) // group_size if group_size else 1
    if (group_size and indices.rank != 2) or not _may_equal((codebook.shape[0],), (groups,)):
        raise Mismatch(f"{indices!r} in groups of {group_size} rows do not read {codebook.shape[0]} codebooks")
    if scale is not None:
        if not scale.dtype.is_floating:
            raise Mismatch(f"the scale is {scale.dtype.value}, no floating-point type")
        fits = _may_equal(scale.shape[:-1], indices.shape[:-1]) and scale.rank == indices.rank
        if not fits or not _divides(scale.shape[-1], columns):
            raise Mismatch(f"scales {scale!r} are none of blocks of the {columns} columns of {indices!r}")
    result = indices.with_shape((*indices.shape[:-1], columns))
    return result.with_dtype(output_dtype or codebook.dtype)


def _divides(blocks: Dim, columns: Dim) -> bool:
    """False if it is known that so many columns are no whole blocks."""
    if not isinstance(blocks, int) or not isinstance(columns, int):
        return True
    return blocks >= 1 and columns % blocks == 0


register_torch_op("graphopt.quantize", (Trait.PURE, Trait.STEPS), infer_quantize)
register_torch_op("graphopt.dequantize", (Trait.PURE, Trait.DECODES), infer_dequantize)
register_torch_op("graphopt.fake_quantize", (Trait.PURE, Trait.DECODES, Trait.STEPS), infer_fake_quantize)
register_torch_op("graphopt.unpack", (Trait.PURE, Trait.DECODES), infer_unpack)
register_torch_op("graphopt.lookup", (Trait.PURE, Trait.DECODES), infer_lookup)
register_torch_op("graphopt.requantize", (Trait.PURE, Trait.STEPS), infer_requantize)
register_torch_op("graphopt.matmul_integer", (Trait.PURE,))
register_torch_op("graphopt.conv_integer", (Trait.PURE,))
register_torch_op("graphopt.dynamic_quantize", (Trait.PURE, Trait.STEPS))
register_torch_op("graphopt.integer_linear", (Trait.PURE, Trait.STEPS))
register_torch_op("graphopt.integer_conv", (Trait.PURE, Trait.STEPS))
