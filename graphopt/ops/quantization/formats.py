"""The element formats that numbers are quantized to: their range, their grid, and how tensors store them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.errors import unknown_name
from graphopt.ir import DType


@dataclass(frozen=True, slots=True)
class Format:
    """A format of quantized numbers.

    name: as the operators' `dtype` spells it. dtype: the IR's element type that holds it; `dtype.storage` is PyTorch's.
    low, high: the least and the greatest number. mantissa, exponent: of a float, the bits after the leading one, and
    the exponent of its least normal number; None for an integer.
    """

    name: str
    dtype: DType
    low: float
    high: float
    mantissa: int | None = None
    exponent: int | None = None

    @property
    def is_float(self) -> bool:
        """True for floats: they have no zero point."""
        return self.mantissa is not None

    @property
    def storage(self) -> torch.dtype:
        """The dtype of the tensors that hold such numbers."""
        return self.dtype.storage

    @property
    def bits(self) -> int:
        """How many bits a number takes."""
        return self.dtype.bits if self.is_float else int(self.high - self.low).bit_length()


def _integer(bits: int, signed: bool) -> Format:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    held = next(width for width in (2, 4, 8, 16, 32) if bits <= width and (bits in (2, 4) or width >= 8))
    return Format(f"{'' if signed else 'u'}int{bits}", DType(f"{'i' if signed else 'u'}{held}"), low, high)


_FLOATS = (
    Format("float8_e4m3fn", DType.F8E4M3FN, -448.0, 448.0, 3, -6),
    Format("float8_e4m3fnuz", DType.F8E4M3FNUZ, -240.0, 240.0, 3, -7),
    Format("float8_e5m2", DType.F8E5M2, -57344.0, 57344.0, 2, -14),
    Format("float8_e5m2fnuz", DType.F8E5M2FNUZ, -57344.0, 57344.0, 2, -15),
    Format("float6_e2m3", DType.F6E2M3, -7.5, 7.5, 3, 0),
    Format("float6_e3m2", DType.F6E3M2, -28.0, 28.0, 2, -2),
    Format("float4_e2m1", DType.F4E2M1, -6.0, 6.0, 1, 0),
)
_INTEGERS = tuple(_integer(bits, signed) for signed in (True, False) for bits in (2, 3, 4, 5, 6, 7, 8, 16))
FORMATS: dict[str, Format] = {f.name: f for f in (*_INTEGERS, _integer(32, True), *_FLOATS)}
"""Formats by name: int2 … int8, int16, int32, uint2 … uint8, uint16, and small floats."""

_BY_DTYPE = {f.dtype: f for f in FORMATS.values() if f.is_float or f.bits == f.dtype.bits}


def find_format(name: str | torch.dtype | DType | Format) -> Format:
    """Return a format by its name, or by the PyTorch or IR dtype that has its range.

    Raises:
        UnknownNameError: there is none.

    >>> find_format("int4").low, find_format(torch.float8_e4m3fn).high
    (-8, 448.0)
    """
    if isinstance(name, Format):
        return name
    key = _BY_DTYPE[name].name if isinstance(name, DType) and name in _BY_DTYPE else str(name).removeprefix("torch.")
    try:
        return FORMATS[key]
    except KeyError:
        raise unknown_name("quantized format", key, FORMATS) from None
