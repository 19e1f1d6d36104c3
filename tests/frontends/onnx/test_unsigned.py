"""Arithmetic of unsigned integers, which PyTorch hardly has; NumPy is the judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from graphopt.analysis import Interpreter
from graphopt.backends.fx import emit_fx
from graphopt.frontends.onnx import read_onnx
from graphopt.ops.onnx_values import from_numpy, to_numpy
from tests.frontends.onnx.oracle import one_node

DTYPES = (np.uint8, np.uint16, np.uint32, np.uint64)
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.floor_divide,
    "Mod": np.mod,
    "Max": np.maximum,
    "Min": np.minimum,
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
}


def operands(dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of small numbers, of those around the middle of the range, and of the largest."""
    most = np.iinfo(dtype).max
    values = [0, 1, 2, 3, 7, most // 2, most // 2 + 1, most - 1, most, most // 3]
    x, y = np.meshgrid(np.array(values, dtype), np.array(values, dtype))
    return x.reshape(-1), y.reshape(-1)


def check(operator: str, x: np.ndarray, y: np.ndarray, want: np.ndarray, **attributes: Any) -> None:
    graph = read_onnx(one_node(operator, {"a": x, "b": y}, attributes, 18))
    given = [from_numpy(x), from_numpy(y)]
    for (result,) in (Interpreter(graph).run(*given), emit_fx(graph, flat=True)(*given)):
        assert torch.is_tensor(result)
        np.testing.assert_array_equal(to_numpy(result), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_binary_operators(operator: str, dtype: Any) -> None:
    x, y = operands(dtype)
    if operator in ("Div", "Mod"):
        x, y = x[y > 0], y[y > 0]
    with np.errstate(over="ignore"):
        check(operator, x, y, OPERATORS[operator](x, y))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str, dtype: Any) -> None:
    width = np.iinfo(dtype).bits
    x, y = np.meshgrid(operands(dtype)[0][:10], np.arange(width, dtype=dtype))
    x, y = x.reshape(-1), y.reshape(-1)
    shift = np.left_shift if direction == "LEFT" else np.right_shift
    check("BitShift", x, y, shift(x, y), direction=direction)
