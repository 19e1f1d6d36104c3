"""Quantization: formats, arithmetic, the operators `graphopt.quantize`, `graphopt.dequantize` and their kin."""

from graphopt.ops.quantization import dialect
from graphopt.ops.quantization.codebooks import lookup, packed_codes
from graphopt.ops.quantization.formats import FORMATS, Format, find_format
from graphopt.ops.quantization.functions import dequantize, fake_quantize, quantize
from graphopt.ops.quantization.packing import is_packed, pack, packed_size, unpack

__all__ = [
    "FORMATS",
    "Format",
    "dequantize",
    "dialect",
    "fake_quantize",
    "find_format",
    "is_packed",
    "lookup",
    "pack",
    "packed_codes",
    "packed_size",
    "quantize",
    "unpack",
]
