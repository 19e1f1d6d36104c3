"""Element types of tensors: the union of what PyTorch and ONNX know."""

from __future__ import annotations

from enum import Enum

import torch


class DType(Enum):
    """An element type; the value is its name in the text form."""

    BOOL = "bool"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    U64 = "u64"
    I4 = "i4"
    U4 = "u4"
    I2 = "i2"
    U2 = "u2"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F8E8M0 = "f8e8m0"
    F6E2M3 = "f6e2m3"
    F6E3M2 = "f6e3m2"
    F4E2M1 = "f4e2m1"
    C64 = "c64"
    C128 = "c128"
    STRING = "string"

    # Members are singletons: identity is the cheapest correct hash, and these are hashed in every cache key.
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return self.value

    @property
    def is_floating(self) -> bool:
        """True for real floating-point types."""
        return self in _FLOATING

    @property
    def is_complex(self) -> bool:
        """True for complex types."""
        return self in (DType.C64, DType.C128)

    @property
    def is_integer(self) -> bool:
        """True for signed and unsigned integers (bool is not an integer)."""
        return self in _INTEGER

    @property
    def bits(self) -> int:
        """The width of one element in bits (0 for strings, whose width varies)."""
        return _BITS[self]

    @property
    def storage(self) -> torch.dtype:
        """The PyTorch dtype of the tensors that hold such elements.

        It is `torch` where PyTorch has the type. An integer of fewer than 8 bits lies in a byte of its own, a float of
        fewer than 8 bits in a float8_e4m3fn, which holds each of its numbers.

        Raises:
            TypeError: PyTorch has no tensors of such elements.

        >>> DType.I4.storage
        torch.int8
        """
        return _STORAGE.get(self) or self.torch

    @property
    def torch(self) -> torch.dtype:
        """The PyTorch dtype.

        Raises:
            TypeError: PyTorch has no such dtype.

        >>> DType.F32.torch
        torch.float32
        """
        try:
            return _TO_TORCH[self]
        except KeyError:
            raise TypeError(f"PyTorch has no dtype for {self.value}") from None


def from_torch(dtype: torch.dtype) -> DType:
    """Return the `DType` of a PyTorch dtype.

    >>> from_torch(torch.int64)
    i64
    """
    try:
        return _FROM_TORCH[dtype]
    except KeyError:
        raise TypeError(f"no IR dtype for {dtype}") from None


_FLOATING = frozenset(
    {
        DType.F16,
        DType.BF16,
        DType.F32,
        DType.F64,
        DType.F8E4M3FN,
        DType.F8E4M3FNUZ,
        DType.F8E5M2,
        DType.F8E5M2FNUZ,
        DType.F8E8M0,
        DType.F6E2M3,
        DType.F6E3M2,
        DType.F4E2M1,
    }
)
_INTEGER = frozenset(
    {
        DType.I8,
        DType.I16,
        DType.I32,
        DType.I64,
        DType.U8,
        DType.U16,
        DType.U32,
        DType.U64,
        DType.I4,
        DType.U4,
        DType.I2,
        DType.U2,
    }
)
_BITS = {
    DType.BOOL: 8,
    DType.STRING: 0,
    DType.I4: 4,
    DType.U4: 4,
    DType.I2: 2,
    DType.U2: 2,
    DType.F8E4M3FN: 8,
    DType.F8E4M3FNUZ: 8,
    DType.F8E5M2: 8,
    DType.F8E5M2FNUZ: 8,
    DType.F8E8M0: 8,
    DType.F6E2M3: 6,
    DType.F6E3M2: 6,
    DType.F4E2M1: 4,
    DType.BF16: 16,
    **{d: int(d.value[1:]) for d in DType if d.value[1:].isdigit()},
}
_TO_TORCH = {
    DType.BOOL: torch.bool,
    DType.I8: torch.int8,
    DType.I16: torch.int16,
    DType.I32: torch.int32,
    DType.I64: torch.int64,
    DType.U8: torch.uint8,
    DType.U16: torch.uint16,
    DType.U32: torch.uint32,
    DType.U64: torch.uint64,
    DType.F16: torch.float16,
    DType.BF16: torch.bfloat16,
    DType.F32: torch.float32,
    DType.F64: torch.float64,
    DType.F8E4M3FN: torch.float8_e4m3fn,
    DType.F8E4M3FNUZ: torch.float8_e4m3fnuz,
    DType.F8E5M2: torch.float8_e5m2,
    DType.F8E5M2FNUZ: torch.float8_e5m2fnuz,
    DType.F8E8M0: torch.float8_e8m0fnu,
    DType.C64: torch.complex64,
    DType.C128: torch.complex128,
}
_FROM_TORCH = {torch_dtype: dtype for dtype, torch_dtype in _TO_TORCH.items()}
_STORAGE = {
    DType.I4: torch.int8,
    DType.I2: torch.int8,
    DType.U4: torch.uint8,
    DType.U2: torch.uint8,
    DType.F6E2M3: torch.float8_e4m3fn,
    DType.F6E3M2: torch.float8_e4m3fn,
    DType.F4E2M1: torch.float8_e4m3fn,
}
