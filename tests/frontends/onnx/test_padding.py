"""Padding at sizes that are not known, and powers of stored numbers; ONNX Runtime is the judge."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.frontends.onnx.operators import padding
from tests.frontends.onnx.oracle import agrees, one_node

GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize(
    ("shape", "pads", "op"),
    [
        ((2, 7), (0, 0, 0, 3), "1d"),
        ((2, 3, 7), (0, 0, 2, 0, 0, 4), "1d"),
        ((2, 3, 5, 6), (0, 0, 1, 2, 0, 0, 3, 0), "2d"),
        ((1, 2, 4, 5, 6), (0, 0, 1, 1, 1, 0, 0, 2, 2, 2), "3d"),
    ],
)
def test_dims_that_are_not_known(shape: tuple[int, ...], pads: tuple[int, ...], op: str, mode: str) -> None:
    x = normal(*shape)
    names = [f"D{i}" for i in range(len(shape))]
    model = one_node("Pad", {"x": x}, {"mode": mode}, 18, {"pads": np.array(pads)}, {"x": names})
    graph = agrees(model, {"x": x})
    kind = "reflection" if mode == "reflect" else "replication"
    assert [node.op.name for node in graph] == [f"aten.{kind}_pad{op}"]


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_other_dims(mode: str) -> None:
    x = normal(4, 3, 5)
    model = one_node("Pad", {"x": x}, {"mode": mode}, 19, {"pads": np.array([2, 0, 1, 1, 0, 2])})
    agrees(model, {"x": x})


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_places_are_computed_where_they_are_too_many_to_store(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(padding, "LISTED", 4)
    x = normal(4, 3, 5)
    model = one_node("Pad", {"x": x}, {"mode": mode}, 19, {"pads": np.array([2, 0, 1, 1, 0, 2])})
    graph = agrees(model, {"x": x})
    assert "aten.arange" in [node.op.name for node in graph]


@pytest.mark.parametrize("exponent", [2.0, 0.5, -1.0, 3.0, 1.7])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_powers_of_a_stored_number(exponent: float, shape: tuple[int, ...]) -> None:
    x = np.abs(normal(3, 4)) + 0.1
    graph = agrees(one_node("Pow", {"x": x}, {}, 15, {"n": np.full(shape, exponent, np.float32)}), {"x": x})
    assert [node.op.name for node in graph] == ["aten.pow.Tensor_Scalar"]
