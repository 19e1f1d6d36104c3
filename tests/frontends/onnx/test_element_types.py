"""Elementwise operators and reductions in every element type that ONNX Runtime has kernels for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from graphopt.frontends.onnx.operators.elementwise import BINARY, UNARY
from tests.frontends.onnx.oracle import expected_of, one_node

TYPES = [
    *map(np.dtype, ("float32", "float64", "float16", "int8", "int16", "int32", "int64")),
    *map(np.dtype, ("uint8", "uint16", "uint32", "uint64", "bool")),
]
OTHERS = ["Celu", "Elu", "HardSigmoid", "Hardmax", "IsInf", "LeakyRelu", "Mish", "Selu", "Shrink", "Sign", "Softmax"]
OTHERS += ["Softplus", "ThresholdedRelu"]
REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]


def draw(dtype: np.dtype[Any], shape: tuple[int, ...], *, special: bool = True, low: int = -12) -> np.ndarray:
    """Small numbers, with zeros of both signs, infinities and no number among floats, and extremes among integers."""
    rng = np.random.default_rng(sum(shape))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        x = (rng.standard_normal(shape) * 3).astype(dtype)
        if special:
            x.reshape(-1)[:5] = [0, -0.0, np.inf, -np.inf, np.nan]
        return x
    x = rng.integers(low if dtype.kind == "i" else max(low, 0), 13, shape).astype(dtype)
    if special:
        x.reshape(-1)[:2] = [np.iinfo(dtype).max, np.iinfo(dtype).min]
    return x


def check(operator: str, *operands: np.ndarray, **attributes: Any) -> None:
    """Hold an operator to ONNX Runtime, if that has it in these types."""
    inputs = {f"x{index}": array for index, array in enumerate(operands)}
    model = one_node(operator, inputs, attributes, 21)
    try:
        (wanted,) = expected_of(model, inputs)
    except Exception as error:  # ONNX Runtime's own errors have no common class
        if "NOT_IMPLEMENTED" in str(error) or "INVALID_GRAPH" in str(error):
            return
        raise
    graph = read_onnx(model)
    assert not [node for node in graph if node.op.name.startswith("onnx.")]
    (got,) = Interpreter(graph).run(*map(torch.from_numpy, operands))
    array = got.numpy()
    assert (array.dtype.kind, array.dtype.itemsize, array.shape) == (
        wanted.dtype.kind,
        wanted.dtype.itemsize,
        wanted.shape,
    )
    near = 2e-3 if array.dtype == np.float16 else 1e-5
    np.testing.assert_allclose(array, wanted, rtol=near if array.dtype.kind == "f" else 0, atol=near, equal_nan=True)


@pytest.mark.parametrize("operator", sorted({*UNARY, *OTHERS}))
def test_of_one_operand(operator: str) -> None:
    for dtype in TYPES:
        odd = operator in ("Hardmax", "Shrink", "Softmax") or (operator, dtype) == ("Sign", np.float16)
        check(operator, draw(dtype, (3, 5), special=not odd))


@pytest.mark.parametrize("operator", REDUCTIONS)
def test_reductions(operator: str) -> None:
    for dtype in TYPES:
        low = 1 if "Log" in operator else -3
        check(f"Reduce{operator}", draw(dtype, (2, 3), special=False, low=low), keepdims=0)


@pytest.mark.parametrize("operator", sorted({*BINARY, "Max", "Min", "Sum"}))
def test_of_two_operands(operator: str) -> None:
    for dtype in TYPES:
        check(operator, draw(dtype, (3, 5)), draw(dtype, (5,)))


@pytest.mark.parametrize("mode", [0, 1])
def test_quotients_and_remainders(mode: int) -> None:
    for dtype in TYPES[:-1]:
        x, y = draw(dtype, (3, 5), special=dtype.kind == "u"), draw(dtype, (5,), special=False)
        y = np.where(y == 0, np.array(3, dtype), y)
        if mode or dtype.kind != "f":
            check("Mod", x, y, fmod=mode)
        check("Div", x, y)


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str) -> None:
    for dtype in TYPES[7:-1]:
        x = draw(dtype, (3, 5))
        check("BitShift", x, np.arange(5).astype(dtype) * np.array(dtype.itemsize * 8 // 5, dtype), direction=direction)


@pytest.mark.parametrize("base", TYPES[:-1], ids=str)
def test_powers(base: np.dtype[Any]) -> None:
    for exponent in TYPES[:-1]:
        x = draw(base, (3, 5)) if base.kind == "f" else draw(base, (3, 5), special=False, low=1)
        check("Pow", x, np.arange(5).astype(exponent))
        if exponent.kind != "u":
            check("Pow", x, np.arange(-2, 3).astype(exponent))


@pytest.mark.parametrize("own", TYPES, ids=str)
def test_conversions(own: np.dtype[Any]) -> None:
    for target in TYPES:
        x = draw(own, (3, 5), special=False, low=0 if target.kind == "u" else -9)
        x = np.abs(x) if target.kind == "u" and own.kind != "b" else x
        check("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(target)))
