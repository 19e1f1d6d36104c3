"""Fourier transforms. ONNX keeps complex numbers as a last dim of size 2, so a complex value of the IR is a tensor of
one dim more here; only the operators of this module know that, and `COMPLEX` lists them."""

from __future__ import annotations

from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import COMPLEX, Call, Declined, lowers
from graphopt.backends.onnx.shaping import concat, squeeze, unsqueeze
from graphopt.ir import DType, TensorType

TRANSFORMS = ("aten.fft_fft", "aten.fft_ifft", "aten.fft_rfft", "aten.fft_irfft")
COMPLEX.update(("aten.complex", "aten.view_as_complex", "aten.view_as_real", *TRANSFORMS))


@lowers("aten.complex")
def _lower_complex(e: Emitter, a: Call) -> Tensor:
    if a.real.dims != a.imag.dims:
        raise Declined("parts of different shapes")
    parts = [unsqueeze(e, part, [part.rank]) for part in (a.real, a.imag)]
    return _as_complex(e, concat(e, parts, -1))


@lowers("aten.view_as_complex")
def _lower_view_as_complex(e: Emitter, a: Call) -> Tensor:
    return _as_complex(e, a.self)


@lowers("aten.view_as_real")
def _lower_view_as_real(e: Emitter, a: Call) -> Tensor:
    return _parts(a.self)


@lowers(*TRANSFORMS)
def _lower_transform(e: Emitter, a: Call) -> Tensor:
    """The standard normalization: none forward, 1/N back."""
    if a.norm not in (None, "backward"):
        raise Declined(f"normalization {a.norm!r}")
    name = a.node.op.name.removeprefix("aten.fft_")
    back, half = "i" in name, "r" in name
    from_real = not _type(a, 0).dtype.is_complex
    x = unsqueeze(e, a.self, [a.self.rank]) if from_real else _parts(a.self)
    dims = _type(a, 0).shape
    axis = a.dim % len(dims)
    out = a.out.shape[axis]
    length = (out if half and back else dims[axis]) if a.n is None else a.n
    shape = (*a.out.shape, 1 if half and back else 2)
    sizes: dict[str, Any] = {"inverse": int(back), "onesided": int(half)}
    if e.opset < 20:
        y = e.op("DFT", x, e.scalar(length, DType.I64), axis=axis, shape=shape, **sizes)
    else:
        y = e.op("DFT", x, e.scalar(length, DType.I64), e.scalar(axis, DType.I64), shape=shape, **sizes)
    return squeeze(e, y, [y.rank - 1]) if half and back else _as_complex(e, y)


def _type(a: Call, index: int) -> TensorType:
    value = a.node.operands[index]
    assert value is not None and isinstance(value.type, TensorType)
    return value.type


def _parts(x: Tensor) -> Tensor:
    """A complex tensor as pairs; it must have been made here."""
    if x.dtype.is_complex:
        raise Declined("a stored or given complex tensor")
    return x


def _as_complex(e: Emitter, pairs: Tensor) -> Tensor:
    """Pairs as what stands for a complex value: named, so that they keep their shape."""
    y = e.op("Identity", pairs, shape=pairs.dims) if pairs.name else pairs
    y.name = y.name or "complex"
    return y


__all__ = ["TRANSFORMS"]
