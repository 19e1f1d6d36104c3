"""Fourier transforms and mel matrices, against NumPy's as ONNX Runtime's are rough, and back into ONNX."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis import Interpreter
from graphopt.backends.onnx import emit_onnx
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import agrees, expected_of, one_node

RNG = np.random.default_rng(5)


def pairs(z: np.ndarray) -> np.ndarray:
    return np.stack([z.real, z.imag], -1).astype(np.float32)


def transformed(x: np.ndarray, axis: int, length: int | None, *, half: bool, back: bool) -> np.ndarray:
    z = x[..., 0] + (1j * x[..., 1] if x.shape[-1] == 2 else 0)
    if back:
        return np.fft.irfft(z, length, axis)[..., None] if half else pairs(np.fft.ifft(z, length, axis))
    full = np.fft.fft(z, length, axis)
    return pairs(np.take(full, range(full.shape[axis] // 2 + 1), axis) if half else full)


@given(
    parts=st.integers(1, 2),
    axis=st.sampled_from([0, 1, -2, -3]),
    length=st.sampled_from([None, 4, 5, 8]),
    half=st.booleans(),
    back=st.booleans(),
    opset=st.sampled_from([17, 20]),
    symbolic=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_transforms(
    parts: int, axis: int, length: int | None, half: bool, back: bool, opset: int, symbolic: bool
) -> None:
    x = RNG.standard_normal((3, 6, parts)).astype(np.float32)
    attributes: dict[str, Any] = {"onesided": int(half), "inverse": int(back)}
    constants = {} if length is None else {"n": np.array(length)}
    names = ["x", "" if length is None else "n"]
    if opset < 20:
        attributes["axis"] = axis
    else:
        constants["axis"] = np.array(axis)
        names.append("axis")
    shapes = {"x": ["rows", "columns", parts]} if symbolic else {}
    model = one_node("DFT", {"x": x}, attributes, opset, constants, shapes, names)
    graph = read_onnx(model)
    assert not [node for node in graph if node.op.name.startswith("onnx.")]
    (got,) = Interpreter(graph).run(torch.from_numpy(x))
    wanted = transformed(x, axis % 3, length, half=half, back=back)
    torch.testing.assert_close(got, torch.from_numpy(wanted).to(got.dtype), rtol=1e-4, atol=1e-5)
    if not (half and (back or parts == 2)):  # ONNX Runtime has no one-sided transforms back, or of complex numbers
        (again,) = expected_of(emit_onnx(graph), {"x": x})
        np.testing.assert_allclose(again, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("window", [True, False])
@pytest.mark.parametrize("batch", ["batch", 2])
def test_frames(half: bool, window: bool, batch: Any) -> None:
    x = RNG.standard_normal((2, 20, 1)).astype(np.float32)
    constants = {"step": np.array(3), "n": np.array(8)}
    names = ["x", "step", "", "n"]
    if window:
        constants["w"] = np.hanning(8).astype(np.float32)
        names[2] = "w"
    model = one_node("STFT", {"x": x}, {"onesided": int(half)}, 17, constants, {"x": [batch, 20, 1]}, names)
    graph = agrees(model, {"x": x}, 1e-4)
    assert ("aten.fft_rfft" if half else "aten.fft_fft") in [node.op.name for node in graph]


@pytest.mark.parametrize(("bins", "length", "rate", "low", "high"), [(8, 16, 8192, 0, 4096), (4, 32, 16000, 20, 7000)])
def test_mel_matrices(bins: int, length: int, rate: int, low: float, high: float) -> None:
    operands = {"bins": bins, "length": length, "rate": rate}
    constants = {name: np.array(value) for name, value in operands.items()}
    constants |= {name: np.array(value, dtype=np.float32) for name, value in {"low": low, "high": high}.items()}
    agrees(one_node("MelWeightMatrix", {}, {}, 17, constants), {})
