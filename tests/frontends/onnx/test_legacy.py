"""Operators of opsets 1 to 8 that meant something else than today."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from graphopt.analysis import Interpreter
from graphopt.errors import CaptureError
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import one_node

RNG = np.random.default_rng(2)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)


def run(operator: str, opset: int, attributes: dict[str, Any], *operands: np.ndarray) -> torch.Tensor:
    inputs = {f"i{index}": array for index, array in enumerate(operands)}
    model = one_node(operator, inputs, attributes, opset)
    model.ir_version = 3
    graph = read_onnx(model)
    assert not [node for node in graph if node.op.name.startswith("onnx.")]
    result: torch.Tensor = Interpreter(graph).run(*map(torch.from_numpy, operands))[0]
    return result


@pytest.mark.parametrize("opset", [1, 6])
@pytest.mark.parametrize(("axis", "shape"), [(0, (2,)), (1, (3,)), (1, (3, 4)), (-1, (4,)), (None, (4,)), (None, ())])
def test_operands_are_aligned_at_an_axis(opset: int, axis: int | None, shape: tuple[int, ...]) -> None:
    y = RNG.standard_normal(shape).astype(np.float32)
    attributes = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
    got = run("Sub", opset, attributes, X, np.asarray(y))
    behind = 0 if axis is None or not shape else 3 - axis % 3 - len(shape)
    np.testing.assert_allclose(got.numpy(), X - np.asarray(y).reshape((*shape, *[1] * behind)))


def test_slopes_are_those_of_channels() -> None:
    slope = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    np.testing.assert_allclose(run("PRelu", 6, {}, X, slope), np.where(X < 0, X * slope[:, None], X), rtol=1e-6)


def test_shapes_and_types_were_attributes() -> None:
    assert run("Reshape", 1, {"shape": [4, -1]}, X).shape == (4, 6)
    assert run("Cast", 1, {"to": "DOUBLE"}, X).dtype is torch.float64


def test_statistics_of_the_batch_or_stored_ones() -> None:
    operands = [X, *(RNG.random(3).astype(np.float32) + 0.5 for _ in range(4))]
    scale, bias, mean, var = (torch.from_numpy(v) for v in operands[1:])
    for is_test in (0, 1):
        got = run("BatchNormalization", 6, {"is_test": is_test}, *operands)
        wanted = torch.batch_norm(torch.from_numpy(X), scale, bias, mean, var, not is_test, 0.1, 1e-5, False)
        torch.testing.assert_close(got, wanted)


def test_statistics_of_each_element() -> None:
    operands = [X, *(RNG.random((3, 4)).astype(np.float32) + 0.5 for _ in range(4))]
    scale, bias, mean, var = operands[1:]
    got = run("BatchNormalization", 7, {"spatial": 0}, *operands)
    np.testing.assert_allclose(got, (X - mean) / np.sqrt(var + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5)


def test_dropout_at_inference_and_in_training() -> None:
    assert torch.equal(run("Dropout", 6, {"is_test": 1}, X), torch.from_numpy(X))
    assert (run("Dropout", 6, {"ratio": 0.9}, X) == 0).any()


def test_defaults_had_fewer_digits() -> None:
    old = np.where(X > 0, 1.0507 * X, 1.0507 * 1.6732 * (np.exp(X) - 1))
    np.testing.assert_allclose(run("Selu", 1, {}, X), old, rtol=1e-5)


def test_an_opset_that_onnx_does_not_know_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    info = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", info[:1], info[1:]))
    model.opset_import[0].version = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(CaptureError, match="are supported; install a newer onnx"):
        read_onnx(model)
