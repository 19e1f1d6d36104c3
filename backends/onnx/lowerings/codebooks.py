"""Codebooks: indices unpacked by shifts and remainders, or read as 2- or 4-bit integers; codes by `Gather`."""

from __future__ import annotations

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.quantization_opsets import SINCE
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import reshape
from graphopt.errors import EmissionError
from graphopt.ir import DType
from graphopt.ops.onnx_dtypes import ONNX_CODES
from graphopt.ops.quantization.codebooks import planes, unpack

_TYPES = {2: DType.U2, 4: DType.U4}


@lowers("graphopt.unpack")
def _lower_unpack(e: Emitter, a: Call) -> Tensor:
    packed: Tensor = a.input
    narrow = _TYPES.get(a.bits)
    if narrow is not None and packed.data is not None and e.opset >= SINCE[narrow]:
        data = unpack(packed.data, a.bits, a.size)
        stored = e.once((packed, narrow), lambda: Tensor(narrow, tuple(data.shape), packed.name, data))
        return _cast(e, stored, DType.U8)
    found: Tensor | None = None
    start = 0
    for width, lowest, count in planes(a.bits, a.size):
        whole = packed if count == packed.dims[-1] else _slice(e, packed, start, count)
        part = _plane(e, whole, width, a.size)
        start += count
        if lowest:
            part = e.op("Mul", e.cast(part, DType.I32), 1 << lowest, shape=part.shape)
        found = part if found is None else e.op("Add", e.cast(found, DType.I32), part, shape=part.shape)
    assert found is not None
    return e.cast(found, DType.U8)


def _plane(e: Emitter, packed: Tensor, width: int, size: int) -> Tensor:
    """The indices of one plane, [..., size] bytes."""
    if width == 8:
        return packed
    parts = []
    for index in range(8 // width):
        part = packed
        if index:
            part = e.op("BitShift", part, index * width, shape=part.shape, direction="RIGHT")
        if index < 8 // width - 1:
            part = e.op("Mod", part, 1 << width, shape=part.shape)  # a mask that early opsets have
        parts.append(part)
    shape = (*packed.dims[:-1], packed.dims[-1] * len(parts))
    whole = e.op("Concat", *parts, axis=-1, shape=shape)
    return whole if shape[-1] == size else _slice(e, whole, 0, size)


def _slice(e: Emitter, x: Tensor, start: int, count: int) -> Tensor:
    shape = (*x.dims[:-1], count)
    return e.op("Slice", x, e.ints([start]), e.ints([start + count]), e.ints([-1]), shape=shape)


@lowers("graphopt.lookup")
def _lower_lookup(e: Emitter, a: Call) -> Tensor:
    groups, codes, size = a.codebook.dims
    indices = e.cast(a.indices, DType.I32)
    if a.group_size:
        assert isinstance(indices.dims[0], int), "groups of rows are those of a stored weight"
        rows = torch.arange(indices.dims[0], dtype=torch.int32) // a.group_size * codes
        indices = e.op("Add", indices, e.constant(rows[:, None], "first_code"), shape=indices.shape)
    table = reshape(e, a.codebook, (groups * codes, size) if size > 1 else (groups * codes,))
    columns = indices.dims[-1] * size
    shape = (*indices.dims, size) if size > 1 else indices.dims
    found = e.op("Gather", table, indices, dtype=table.dtype, shape=shape)
    if a.scale is not None:
        _check_scale(e, a)
        found = _scaled(e, _cast(e, found, DType.F32), _cast(e, a.scale, DType.F32), columns)
    return _cast(e, reshape(e, found, (*indices.dims[:-1], columns)), a.out.dtype)


def _check_scale(e: Emitter, a: Call) -> None:
    since = SINCE.get(a.scale.dtype, 0)
    if e.opset < since:
        raise EmissionError(
            f"scales of codebooks in {a.scale.dtype.value} need opset {since} (from {a.node.location}); emit with "
            f"opset={since} or higher, not {e.opset}"
        )


def _scaled(e: Emitter, codes: Tensor, scale: Tensor, columns: int) -> Tensor:
    blocks = scale.dims[-1]
    if blocks == 1 and codes.rank == scale.rank:
        return e.op("Mul", codes, scale, shape=codes.shape)
    by_blocks = reshape(e, codes, (*scale.dims, columns // blocks))
    return e.op("Mul", by_blocks, reshape(e, scale, (*scale.dims, 1)), shape=by_blocks.shape)


def _cast(e: Emitter, x: Tensor, dtype: DType) -> Tensor:
    """A conversion where the model runs: stored numbers stay as narrow as they are."""
    if x.dtype is dtype:
        return x
    return e.op("Cast", x, dtype=dtype, shape=x.shape, to=ONNX_CODES[dtype])
