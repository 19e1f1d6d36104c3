"""Operators that only several of PyTorch express: whole for ONNX Runtime, composed for everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import graphopt
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import agrees, expected_of, one_node

RNG = np.random.default_rng(4)
IMAGE = RNG.standard_normal((2, 8, 4, 4)).astype(np.float32)
MATRIX = RNG.standard_normal((3, 4)).astype(np.float32)

CASES: list[tuple[str, np.ndarray, dict[str, Any], dict[str, np.ndarray]]] = [
    ("ArgMax", MATRIX, {"select_last_index": 1}, {}),
    ("Compress", MATRIX, {"axis": 0}, {"c": np.array([True, False, True])}),
    ("CumSum", MATRIX, {"exclusive": 1, "reverse": 1}, {"axis": np.array(1)}),
    ("DepthToSpace", IMAGE, {"blocksize": 2}, {}),
    ("Hardmax", MATRIX, {}, {}),
    ("LRN", IMAGE, {"size": 3}, {}),
    ("LpNormalization", MATRIX, {}, {}),
    ("OneHot", np.array([0, 3, -1]), {}, {"depth": np.array(4), "values": np.array([0, 1], dtype=np.float32)}),
    ("ReverseSequence", MATRIX, {"batch_axis": 0, "time_axis": 1}, {"lengths": np.array([4, 2, 1])}),
    ("Shrink", MATRIX, {"lambd": 0.3}, {}),
    ("Sign", MATRIX, {}, {}),
    ("SpaceToDepth", IMAGE, {"blocksize": 2}, {}),
    ("ThresholdedRelu", MATRIX, {"alpha": 0.2}, {}),
]


@pytest.mark.parametrize(("operator", "x", "attributes", "constants"), CASES, ids=[case[0] for case in CASES])
def test_whole_or_composed(
    operator: str, x: np.ndarray, attributes: dict[str, Any], constants: dict[str, np.ndarray]
) -> None:
    model = one_node(operator, {"x": x}, attributes, 18, constants)
    assert not [node for node in agrees(model, {"x": x}) if node.op.name.startswith("onnx.")]
    compiled = graphopt.compile(model, (torch.from_numpy(x),), target="onnxruntime")
    assert [node.op_type for node in compiled.to_onnx().graph.node] == [operator]
    np.testing.assert_allclose(compiled(torch.from_numpy(x)), expected_of(model, {"x": x})[0], rtol=1e-5)


def test_one_whose_types_onnx_does_not_infer_is_composed() -> None:
    model = one_node("MeanVarianceNormalization", {"x": IMAGE}, {}, 13)
    assert not [node for node in read_onnx(model, native=True) if node.op.name.startswith("onnx.")]


ROUND_TRIPS: list[tuple[str, np.ndarray, dict[str, Any], dict[str, np.ndarray]]] = [
    ("PRelu", IMAGE, {}, {"slope": RNG.random((8, 1, 1)).astype(np.float32)}),
    ("PRelu", MATRIX, {}, {"slope": np.array([0.3], dtype=np.float32)}),
    ("Selu", MATRIX, {}, {}),
    ("ReduceL1", IMAGE, {"keepdims": 0}, {"axes": np.array([1, 2])}),
    ("ReduceL2", IMAGE, {}, {"axes": np.array([-1])}),
    ("NonZero", MATRIX > 0, {}, {}),
    ("Gemm", MATRIX, {}, {"w": np.ones((4, 5), np.float32), "b": np.arange(5, dtype=np.float32)}),
    ("Gemm", MATRIX, {"alpha": 0.5, "beta": 2.0}, {"w": np.ones((4, 5), np.float32), "b": np.ones(5, np.float32)}),
    ("ScatterElements", MATRIX, {"axis": 1}, {"i": np.array([[0, -1]]), "u": np.ones((1, 2), np.float32)}),
]


@pytest.mark.parametrize(("operator", "x", "attributes", "constants"), ROUND_TRIPS)
def test_round_trips(
    operator: str, x: np.ndarray, attributes: dict[str, Any], constants: dict[str, np.ndarray]
) -> None:
    model = one_node(operator, {"x": x}, attributes, 18, constants)
    agrees(model, {"x": x})
    compiled = graphopt.compile(model, (torch.from_numpy(x),), target="onnxruntime")
    assert [node.op_type for node in compiled.to_onnx().graph.node] == [operator]


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_a_recurrent_layer_stays_one_node(operator: str, direction: str, lengths: bool) -> None:
    """From zeros that the file does not name, and without a detour over PyTorch's layout of the directions."""
    more = {"linear_before_reset": 1} if operator == "GRU" else {}
    inputs = {"x": RNG.standard_normal((5, 2, 3)).astype(np.float32)}
    gates, count = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator], 2 if direction == "bidirectional" else 1
    shapes = {"w": (count, gates * 4, 3), "r": (count, gates * 4, 4), "b": (count, gates * 8)}
    constants = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    if lengths:
        constants["lengths"] = np.array([5, 3], dtype=np.int32)
    symbolic = {"x": [5, 2, 3] if lengths else ["time", "batch", 3]}
    model = one_node(operator, inputs, {"hidden_size": 4, "direction": direction, **more}, 14, constants, symbolic)
    compiled = graphopt.compile(model, (torch.from_numpy(inputs["x"]),), target="onnxruntime")
    assert [node.op_type for node in compiled.to_onnx().graph.node] == [operator]
    np.testing.assert_allclose(compiled(torch.from_numpy(inputs["x"])), expected_of(model, inputs)[0], atol=1e-5)


@pytest.mark.parametrize("target", ["onnxruntime", "onnx"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_sequences_that_end_early(operator: str, target: str) -> None:
    """ONNX Runtime has no LSTM of f64, and onnx's reference evaluator ignores the lengths: it cannot be the judge."""
    inputs = {"x": RNG.standard_normal((5, 2, 3)).astype(np.float32), "lengths": np.array([3, 5], dtype=np.int32)}
    gates = {"LSTM": 4, "GRU": 3}[operator]
    constants = {n: RNG.standard_normal((1, gates * 4, size)).astype(np.float32) for n, size in (("w", 3), ("r", 4))}
    symbolic = {"x": ["time", "batch", 3], "lengths": ["batch"]}
    names = ["x", "w", "r", "", "lengths"]
    model = one_node(operator, inputs, {"hidden_size": 4}, 14, constants, symbolic, names)
    arguments = tuple(map(torch.from_numpy, inputs.values()))
    compiled = graphopt.compile(model, arguments, target=target)
    np.testing.assert_allclose(compiled(*arguments), expected_of(model, inputs)[0], atol=1e-5)
