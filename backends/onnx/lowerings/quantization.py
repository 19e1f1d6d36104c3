"""Quantization: `QuantizeLinear` and `DequantizeLinear`."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.quantization_opsets import HALF_PRECISION, PRECISION, least_opset
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import reshape
from graphopt.errors import EmissionError
from graphopt.ir import DType
from graphopt.ops.onnx_dtypes import ONNX_CODES
from graphopt.ops.quantization import Format, find_format


@lowers("graphopt.quantize")
def _lower_quantize(e: Emitter, a: Call) -> Tensor:
    return _quantize(e, a, a.saturate)


@lowers("graphopt.dequantize")
def _lower_dequantize(e: Emitter, a: Call) -> Tensor:
    return _dequantize(e, a, a.input)


@lowers("graphopt.fake_quantize")
def _lower_fake_quantize(e: Emitter, a: Call) -> Tensor:
    return _dequantize(e, a, _quantize(e, a, True))


def _quantize(e: Emitter, a: Call, saturate: bool) -> Tensor:
    """A format without an element type of its own is bounded as integers of the next one."""
    format_ = _format(e, a)
    if format_.dtype is DType.I32:
        raise EmissionError("ONNX quantizes to at most 16 bits; 32-bit integers can only be stored and dequantized")
    x, scale = _same_floats(e, a.input, _scale(e, a))
    zero = _zero_point(e, a, format_)
    q = e.op(
        "QuantizeLinear",
        x,
        scale,
        zero,
        dtype=format_.dtype,
        shape=x.shape,
        output_dtype=ONNX_CODES[format_.dtype] if zero is None else None,
        precision=ONNX_CODES[DType.F32] if e.opset >= PRECISION and x.dtype is not DType.F32 else None,
        saturate=0 if format_.is_float and not saturate else None,
        **_granularity(a),
    )
    if format_.is_float or format_.bits == format_.dtype.bits:
        return q
    return e.op("Clip", q, int(format_.low), int(format_.high))


def _dequantize(e: Emitter, a: Call, q: Tensor) -> Tensor:
    format_ = _format(e, a)
    scale = _scale(e, a)
    if scale.dtype is DType.F64 or a.out.dtype is DType.F64:
        raise EmissionError("ONNX dequantizes to single and half precision; convert to float32")
    if scale.dtype is not DType.F32 and (e.opset < HALF_PRECISION or a.out.dtype is DType.F32):
        scale = e.cast(scale, DType.F32)  # and the product is rounded once, as in PyTorch
    zero = _zero_point(e, a, format_)
    q = narrowed(e, q, format_)
    x = e.op("DequantizeLinear", q, scale, zero, dtype=scale.dtype, shape=q.shape, **_granularity(a))
    return e.cast(x, a.out.dtype)


def _format(e: Emitter, a: Call) -> Format:
    format_ = find_format(a.dtype)
    needed = least_opset(format_.dtype, a.axis, a.block_size)
    if e.opset < needed:
        grain = f" in blocks of {a.block_size}" if a.block_size else ""
        raise EmissionError(
            f"quantization to {format_.name}{grain} needs opset {needed} (from {a.node.location}); emit with "
            f"opset={needed} or higher, not {e.opset}"
        )
    return format_


def _granularity(a: Call) -> dict[str, Any]:
    return {"axis": a.axis, "block_size": a.block_size or None}


def _scale(e: Emitter, a: Call) -> Tensor:
    scale: Tensor = a.scale
    return one_number(e, scale) if a.axis is None else scale


def one_number(e: Emitter, x: Tensor) -> Tensor:
    """One number as a tensor without dims, or of one dim where that would take an operation."""
    if not x.dims or (x.data is None and x.dims == (1,)):
        return x
    return reshape(e, x, ()) if x.data is None else e.derived(x, "scalar", lambda data: data.reshape(()))


def _same_floats(e: Emitter, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers and scale in the wider type of the two: below opset 23 they must have one."""
    if DType.F64 in (x.dtype, scale.dtype):
        raise EmissionError("ONNX quantizes single and half precision, not double; convert the model to float32")
    half = x.dtype is scale.dtype and e.opset >= HALF_PRECISION
    dtype = x.dtype if half else DType.F32
    return e.cast(x, dtype), e.cast(scale, dtype)


def _zero_point(e: Emitter, a: Call, format_: Format) -> Tensor | None:
    """The zero point in the numbers' type. Except for blocks it is always written: runtimes that fuse look for it."""
    given: Tensor | None = a.zero_point
    if given is not None:
        return narrowed(e, given if a.axis is not None else one_number(e, given), format_)
    shape = () if a.axis is None else a.scale.dims
    if a.block_size or format_.dtype is DType.I32 or not all(isinstance(d, int) for d in shape):
        return None
    return zeros(e, format_.dtype, shape)


def zeros(e: Emitter, dtype: DType, shape: tuple[Any, ...]) -> Tensor:
    """Zero points that are 0."""
    data = torch.zeros(shape, dtype=dtype.storage)
    return e.once(("zero_point", dtype, shape), lambda: Tensor(dtype, shape, "zero_point", data))


def narrowed(e: Emitter, x: Tensor, format_: Format) -> Tensor:
    """Numbers in the element type of their format, as which files pack them."""
    if x.dtype is format_.dtype:
        return x
    if x.data is None:
        return e.op("Cast", x, dtype=format_.dtype, shape=x.shape, to=ONNX_CODES[format_.dtype])
    return e.once((x, format_.dtype), lambda: Tensor(format_.dtype, x.shape, x.name, x.data))
