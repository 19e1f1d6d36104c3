"""Distinct elements, elements where a condition holds, running sums, bits; against ONNX Runtime."""

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
from graphopt.ir import Graph
from tests.frontends.onnx.oracle import agrees, expected_of, one_node

RNG = np.random.default_rng(11)


def names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph]


@given(
    shape=st.sampled_from([(7,), (4, 3), (3, 2, 4), (1, 1)]),
    axis=st.sampled_from([None, 0, -1]),
    ordered=st.booleans(),
    dtype=st.sampled_from([np.float32, np.int64, np.int8]),
)
@settings(max_examples=30, deadline=None)
def test_distinct_elements(shape: tuple[int, ...], axis: int | None, ordered: bool, dtype: Any) -> None:
    x = RNG.integers(0, 2, shape).astype(dtype)
    attributes: dict[str, Any] = {"sorted": int(ordered)} | ({} if axis is None else {"axis": axis})
    sizes = {"x": [f"d{i}" for i in range(len(shape))]}
    outputs = ("y", "first", "inverse", "counts")
    graph = agrees(one_node("Unique", {"x": x}, attributes, 13, {}, sizes, outputs=outputs), {"x": x})
    assert not [name for name in names(graph) if name.startswith("onnx.")]


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("stored", [True, False])
def test_compressed(axis: int | None, stored: bool) -> None:
    x, condition = RNG.standard_normal((3, 4)).astype(np.float32), np.array([True, False, True])
    inputs = {"x": x} if stored else {"x": x, "c": condition}
    attributes = {} if axis is None else {"axis": axis}
    model = one_node("Compress", inputs, attributes, 13, {"c": condition} if stored else {}, {"x": ["n", "m"]})
    graph = agrees(model, inputs)
    assert "aten.index_select" in names(graph)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4)])
def test_what_is_not_zero(shape: tuple[int, ...]) -> None:
    x = RNG.integers(0, 2, shape).astype(np.float32)
    agrees(one_node("NonZero", {"x": x}, {}, 13), {"x": x})


@pytest.mark.parametrize("operator", ["CumSum", "CumProd"])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_running(operator: str, exclusive: int, reverse: int, axis: int) -> None:
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    x[1, 2] = np.inf
    attributes = {"exclusive": exclusive, "reverse": reverse}
    opset = 14 if operator == "CumSum" else 26
    model = one_node(operator, {"x": x}, attributes, opset, {"axis": np.array(axis)}, {"x": ["n", "m"]})
    if operator == "CumSum":
        graph = agrees(model, {"x": x})
        none = torch.empty(0, 4)
        assert Interpreter(graph).run(none)[0].shape == (0, 4)
        return
    y = np.flip(x, axis) if reverse else x
    y = np.cumprod(y, axis)
    if exclusive:
        y = np.delete(np.insert(y, 0, 1, axis), -1, axis)
    (got,) = Interpreter(read_onnx(model)).run(torch.from_numpy(x))
    torch.testing.assert_close(got, torch.from_numpy((np.flip(y, axis) if reverse else y).copy()))


@pytest.mark.parametrize(("own", "target"), [("float32", "int32"), ("int64", "float64"), ("uint16", "int16")])
def test_bits_as_another_type(own: str, target: str) -> None:
    x = RNG.standard_normal(6).astype(np.float32).astype(own) if own != "uint16" else np.arange(65530, 65536, dtype=own)
    code = {"int32": 6, "float64": 11, "int16": 5}[target]
    model = one_node("BitCast", {"x": x}, {"to": code}, 26)
    (got,) = Interpreter(read_onnx(model)).run(torch.from_numpy(x))
    np.testing.assert_array_equal(got.numpy(), x.view(target))
    (again,) = expected_of(emit_onnx(read_onnx(model)), {"x": x})
    np.testing.assert_array_equal(again, x.view(target))


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, -1])
def test_the_first_of_sorted_elements(largest: int, axis: int) -> None:
    """Equal elements keep their order, and what is written again is the one operator."""
    x = RNG.integers(0, 4, (5, 6)).astype(np.float32)
    attributes = {"largest": largest, "axis": axis}
    model = one_node("TopK", {"x": x}, attributes, 11, {"k": np.array([3])}, {"x": ["n", "m"]}, None, ("v", "i"))
    written = emit_onnx(agrees(model, {"x": x}))
    assert [node.op_type for node in written.graph.node] == ["TopK"]
    for got, wanted in zip(expected_of(written, {"x": x}), expected_of(model, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_sorted_elements_of_which_more_is_used() -> None:
    graph = read_onnx(
        one_node("TopK", {"x": np.zeros((3, 5), np.float32)}, {}, 11, {"k": np.array([2])}, outputs=("v", "i"))
    )
    sort = next(iter(graph))
    graph.set_outputs([*graph.outputs, sort.results[1]])
    graph.signature = None
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    results = expected_of(emit_onnx(graph), {"x": x})
    np.testing.assert_array_equal(results[1], results[2][:, :2])
    np.testing.assert_array_equal(results[0], np.take_along_axis(x, results[1], 1))
