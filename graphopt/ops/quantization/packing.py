"""Elements of fewer than 8 bits as ONNX files hold them: packed, the first element in the lowest bits.

Groups of 4, 2 and 4 elements of 2, 4 and 6 bits take 1, 1 and 3 bytes; the last group is filled up with zeros.
"""

from __future__ import annotations

import torch

from graphopt.ir import DType
from graphopt.ops.quantization.formats import find_format

_FLOATS = (DType.F4E2M1, DType.F6E2M3, DType.F6E3M2)


def is_packed(dtype: DType) -> bool:
    """True if files pack several elements into a byte."""
    return dtype in _FLOATS or (dtype.is_integer and dtype.bits < 8)


def packed_size(count: int, dtype: DType) -> int:
    """How many bytes so many elements take.

    >>> packed_size(5, DType.I4), packed_size(5, DType.U2), packed_size(5, DType.F6E2M3)
    (3, 2, 4)
    """
    return (count * dtype.bits + 7) // 8


def pack(stored: torch.Tensor, dtype: DType) -> torch.Tensor:
    """Return the bytes that hold the elements of `stored` (of dtype `dtype.storage`), in row-major order.

    >>> pack(torch.tensor([1, -1, 7], dtype=torch.int8), DType.I4)
    tensor([241,   7], dtype=torch.uint8)
    """
    flat = stored.detach().cpu().reshape(-1)
    codes = _float_codes(flat, dtype) if dtype in _FLOATS else flat.to(torch.int32) & ((1 << dtype.bits) - 1)
    group, width = _group(dtype)
    codes = torch.nn.functional.pad(codes.to(torch.int32), (0, -len(codes) % group)).reshape(-1, group)
    word = torch.zeros(len(codes), dtype=torch.int32)
    for index in range(group):
        word |= codes[:, index] << (index * dtype.bits)
    data = torch.stack([(word >> (8 * byte)) & 255 for byte in range(width)], 1)
    return data.reshape(-1)[: packed_size(len(flat), dtype)].to(torch.uint8)


def unpack(data: torch.Tensor, count: int, dtype: DType) -> torch.Tensor:
    """Return `count` elements from the bytes that hold them, as a vector of dtype `dtype.storage`.

    >>> unpack(torch.tensor([241, 7], dtype=torch.uint8), 3, DType.I4)
    tensor([ 1, -1,  7], dtype=torch.int8)
    """
    group, width = _group(dtype)
    groups = torch.nn.functional.pad(data, (0, -len(data) % width)).to(torch.int32).reshape(-1, width)
    word = torch.zeros(len(groups), dtype=torch.int32)
    for byte in range(width):
        word |= groups[:, byte] << (8 * byte)
    mask = (1 << dtype.bits) - 1
    codes = torch.stack([(word >> (index * dtype.bits)) & mask for index in range(group)], 1).reshape(-1)[:count]
    if dtype in _FLOATS:
        return code_values(dtype)[codes.long()]
    if dtype in (DType.I4, DType.I2):
        codes = codes - ((codes >> (dtype.bits - 1)) << dtype.bits)
    return codes.to(dtype.storage)


def code_values(dtype: DType) -> torch.Tensor:
    """The numbers of a small float format in the order of their codes: sign, exponent, mantissa."""
    format_ = find_format(dtype)
    assert format_.mantissa is not None and format_.exponent is not None
    codes = torch.arange(1 << dtype.bits)
    magnitude = codes & ((1 << dtype.bits - 1) - 1)
    exponent, fraction = magnitude >> format_.mantissa, magnitude & ((1 << format_.mantissa) - 1)
    significand = fraction.double() + torch.where(exponent > 0, 1 << format_.mantissa, 0)
    step = exponent.clamp(min=1) - 1 + format_.exponent - format_.mantissa
    values = torch.ldexp(significand, step)
    return torch.where(codes == magnitude, values, -values).to(dtype.storage)


def _float_codes(flat: torch.Tensor, dtype: DType) -> torch.Tensor:
    values = code_values(dtype).float()
    half = len(values) // 2
    magnitude = torch.searchsorted(values[:half].contiguous(), flat.float().abs().contiguous())
    return magnitude + half * torch.signbit(flat.float())


def _group(dtype: DType) -> tuple[int, int]:
    """Elements that share whole bytes, and how many bytes: 6 bits fit 4 into 3."""
    return {2: (4, 1), 4: (2, 1), 6: (4, 3)}[dtype.bits]
