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
