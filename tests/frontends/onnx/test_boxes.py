"""The choice among overlapping boxes, against ONNX Runtime: interpreted, as an FX module, and written as ONNX again."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import graphopt
from graphopt.testing.onnx_backend import session_of
from tests.frontends.onnx.oracle import agrees, expected_of, is_translated, one_node


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 999),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(0, 12)),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([None, 0.0, 0.4]),
    st.booleans(),
)
def test_boxes_that_overlap_too_much_are_dropped(
    seed: int, sizes: Any, centred: int, most: int, overlap: float, least: float | None, symbolic: bool
) -> None:
    images, classes, count = sizes
    rng = np.random.default_rng(seed)
    boxes = np.round(rng.random([images, count, 4]) * 8) / 8  # corners in any order, ties, boxes without an area
    x = {
        "boxes": boxes.astype(np.float32),
        "scores": np.round(rng.random([images, classes, count]), 1).astype(np.float32),
    }
    limits = {"most": np.array([most]), "overlap": np.array([overlap], dtype=np.float32)}
    if least is not None:
        limits["least"] = np.array([least], dtype=np.float32)
    shapes = {"boxes": ["b", "n", 4], "scores": ["b", classes, "n"]} if symbolic else {}
    model = one_node("NonMaxSuppression", x | limits, {"center_point_box": centred}, 11, symbolic=shapes)
    assert is_translated(agrees(model, x | limits))


def detector() -> Any:
    """Boxes and scores to the chosen boxes: as many as there are."""
    nodes = [
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["rows"]),
        helper.make_node("Slice", ["rows", "two", "three", "one"], ["column"]),
        helper.make_node("Squeeze", ["column", "one"], ["index"]),
        helper.make_node("Squeeze", ["boxes", "zero"], ["all"]),
        helper.make_node("Gather", ["all", "index"], ["y"]),
    ]
    numbers = {"most": [5], "zero": [0], "one": [1], "two": [2], "three": [3]}
    stored = [helper.make_tensor(name, TensorProto.INT64, [1], value) for name, value in numbers.items()]
    stored.append(helper.make_tensor("overlap", TensorProto.FLOAT, [1], [0.3]))
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, "n", 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2, "n"]),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", 4])
    graph = helper.make_graph(nodes, "g", inputs, [output], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 10
    return model


def test_a_detector_compiles_for_every_engine() -> None:
    rng = np.random.default_rng(0)
    model = detector()
    arrays = {"boxes": rng.random([1, 20, 4]).astype(np.float32), "scores": rng.random([1, 2, 20]).astype(np.float32)}
    (wanted,) = expected_of(model, arrays)
    args = [torch.from_numpy(array) for array in arrays.values()]
    for target in ("fx", "onnxruntime"):
        compiled = graphopt.compile(model, args, target=target)
        assert is_translated(compiled.graph)
        torch.testing.assert_close(compiled(*args), torch.from_numpy(wanted))
        written = compiled.to_onnx()
        assert sum(node.op_type == "NonMaxSuppression" for node in written.graph.node) == 1
        np.testing.assert_array_equal(session_of(written).run(None, arrays)[0], wanted)


def test_no_boxes() -> None:
    arrays = {"boxes": np.zeros([1, 0, 4], dtype=np.float32), "scores": np.zeros([1, 2, 0], dtype=np.float32)}
    args = [torch.from_numpy(array) for array in arrays.values()]
    assert graphopt.compile(detector(), target="fx")(*args).shape == (0, 4)
