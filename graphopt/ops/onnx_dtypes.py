"""Element types between the IR, ONNX and NumPy."""

from __future__ import annotations

import torch

from graphopt.ir import DType
from graphopt.ir.storage import byte_view

# The numbers are `onnx.TensorProto.DataType`; written out so that emission needs no look-up by name.
ONNX_CODES: dict[DType, int] = {
    DType.F32: 1,
    DType.U8: 2,
    DType.I8: 3,
    DType.U16: 4,
    DType.I16: 5,
    DType.I32: 6,
    DType.I64: 7,
    DType.STRING: 8,
    DType.BOOL: 9,
    DType.F16: 10,
    DType.F64: 11,
    DType.U32: 12,
    DType.U64: 13,
    DType.C64: 14,
    DType.C128: 15,
    DType.BF16: 16,
    DType.F8E4M3FN: 17,
    DType.F8E4M3FNUZ: 18,
    DType.F8E5M2: 19,
    DType.F8E5M2FNUZ: 20,
    DType.U4: 21,
    DType.I4: 22,
    DType.F4E2M1: 23,
    DType.F8E8M0: 24,
    DType.U2: 25,
    DType.I2: 26,
    DType.F6E2M3: 27,
    DType.F6E3M2: 28,
}
FROM_ONNX_CODE: dict[int, DType] = {code: dtype for dtype, code in ONNX_CODES.items()}


def raw_view(tensor: torch.Tensor) -> memoryview:
    """The elements of a tensor in row-major order, as ONNX stores them (little endian); copied only if they must be."""
    tensor = tensor.detach()
    if not tensor.is_contiguous() or tensor.device.type != "cpu":
        tensor = tensor.cpu().contiguous()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return byte_view(tensor).numpy().data


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor, as bytes of their own.

    >>> raw_bytes(torch.tensor([1, 256], dtype=torch.int16))
    b'\\x01\\x00\\x00\\x01'
    """
    return bytes(raw_view(tensor))
