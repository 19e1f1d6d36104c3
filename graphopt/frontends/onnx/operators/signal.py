"""Fourier transforms, and the matrix from frequencies to mels. ONNX keeps complex numbers as a last dim of size 2."""

from __future__ import annotations

import numpy as np
import torch

from graphopt.frontends.onnx.application import Application, Declined, listable, tensor_type, translates
from graphopt.ir import DType, Value
from graphopt.ir.dim_ops import floordiv
from graphopt.ir.dims import Dim, equal
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE


@translates("DFT")
def discrete_fourier_transform(a: Application) -> Value:
    """Σ x[n]·exp(∓2πi·kn/N) along an axis; one-sided: the first ⌊N/2⌋ + 1 frequencies of a real signal, or back."""
    x, rank = a[0], a.type(0).rank
    axis = a.attr("axis", 1) if a.version < 20 else (a.numbers(2)[0] if a.has(2) else -2)
    axis = int(axis) % rank
    if axis == rank - 1:
        raise Declined("a transform along the dim of real and imaginary parts")
    length = a.dims(1)[0] if a.has(1) else None
    half, back = bool(a.attr("onesided", 0)), bool(a.attr("inverse", 0))
    if half and back and length is None:
        length = 2 * (tensor_type(x).shape[axis] - 1)
    return _transformed(a, _parts(a, x), axis, length, half=half, back=back)


@translates("STFT")
def short_time_fourier_transform(a: Application) -> Value:
    """The transforms of frames of a signal, each times a window."""
    step = int(a.numbers(1)[0])
    window = a.get(2)
    length: Dim = a.dims(3)[0] if a.has(3) else a.type(0).shape[1]
    if window is not None:
        width = tensor_type(window).shape[0]
        length = length if a.has(3) else width
        if equal(width, length) is not True:
            raise Declined(f"a window of {width} for frames of {length}")
    if not isinstance(length, int):
        raise Declined("the length of the frames is not known before the model runs")
    parts = [a.emit("aten.unfold", part, 1, length, step) for part in _parts(a, a[0])]
    if window is not None:
        parts = [a.emit("aten.mul.Tensor", part, a.cast(window, a.type(0).dtype)) for part in parts]
    return _transformed(a, parts, 2, None, half=bool(a.attr("onesided", 1)), back=False)


def _parts(a: Application, x: Value) -> list[Value]:
    """The real part, and the imaginary one if there is one: the last dim."""
    count = tensor_type(x).shape[-1]
    if tensor_type(x).dtype not in (DType.F32, DType.F64):
        raise Declined(f"PyTorch has no Fourier transform of {tensor_type(x).dtype.value}")
    if count not in (1, 2):
        raise Declined(f"numbers of {count} parts")
    assert isinstance(count, int)
    return [a.emit("aten.select.int", x, -1, part) for part in range(count)]


def _transformed(a: Application, parts: list[Value], axis: int, length: Dim | None, *, half: bool, back: bool) -> Value:
    if back and len(parts) == 1:  # of real numbers PyTorch gives a lazy conjugate, which has no view as pairs
        parts = [*parts, a.emit("aten.zeros_like", parts[0])]
    real = len(parts) == 1
    x = parts[0] if real else a.emit("aten.complex", *parts)
    if half and back:
        return a.emit("aten.unsqueeze", a.emit("aten.fft_irfft", x, length, axis), -1)
    if half and real:
        return a.emit("aten.view_as_real", a.emit("aten.fft_rfft", x, length, axis))
    pairs = a.emit("aten.view_as_real", a.emit("aten.fft_ifft" if back else "aten.fft_fft", x, length, axis))
    if not half:
        return pairs
    return a.emit("aten.slice.Tensor", pairs, axis, 0, floordiv(tensor_type(pairs).shape[axis], 2) + 1)


@translates("MelWeightMatrix")
def mel_weight_matrix(a: Application) -> Value:
    """Triangles of equal width in mels, 2595·log₁₀(1 + f/700), over the frequencies of a one-sided transform."""
    bins, length, rate = (int(a.numbers(i)[0]) for i in range(3))
    listable(max(bins, bins * (length // 2 + 1)), "a matrix")
    low, high = (float(a.numbers(i)[0]) for i in (3, 4))
    step = (_mel(high) - _mel(low)) / (bins + 2)  # so that the last edge is one short of `high`
    hertz = 700 * np.expm1((_mel(low) + step * np.arange(bins + 2)) / 2595 * np.log(10))
    edges = ((length + 1) * hertz // rate).astype(np.int64)
    if edges.min() < 0 or edges.max() > length // 2:
        raise Declined(f"frequencies from {low:g} to {high:g} Hz at a sample rate of {rate}")
    matrix = np.zeros((length // 2 + 1, bins))
    for index in range(bins):
        lower, centre, upper = edges[index : index + 3]
        rising = np.arange(lower, centre + 1)
        matrix[rising, index] = (rising - lower) / (centre - lower) if centre > lower else 1
        if upper > centre:
            falling = np.arange(centre, upper)
            matrix[falling, index] = (upper - falling) / (upper - centre)
    dtype = FROM_ONNX_CODE[a.attr("output_datatype", 1)]
    return a.constant(torch.from_numpy(matrix).to(dtype.torch))


def _mel(hertz: float) -> float:
    return float(2595 * np.log1p(hertz / 700) / np.log(10))
