"""Sampling on grids, deformable convolutions and regions, against ONNX Runtime or ONNX's reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import agrees, expected_of, is_translated, one_node

RUNS = settings(max_examples=40, deadline=None)


def random(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def grids(draw: Any, ranks: tuple[int, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any], dict[str, list[Any]]]:
    """An image, a grid of points inside and outside of it, often on edges, attributes and symbolic shapes."""
    rank, aligned = draw(st.sampled_from(ranks)), draw(st.integers(0, 1))
    sizes = [draw(st.integers(1 + aligned, 5)) for _ in range(rank)]
    places = [draw(st.integers(1, 3)) for _ in range(rank)]
    grid = np.random.default_rng(draw(st.integers(0, 99))).uniform(-2.5, 2.5, [2, *places, rank]).astype(np.float32)
    if draw(st.booleans()):
        grid = np.round(grid * 4) / 4
    attributes = {
        "mode": draw(st.sampled_from(["linear", "nearest", "cubic"])),
        "padding_mode": draw(st.sampled_from(["zeros", "border", "reflection"])),
        "align_corners": aligned,
    }
    shapes = {"x": ["n", "c", *(f"d{i}" for i in range(rank))], "g": ["n", *(f"o{i}" for i in range(rank)), rank]}
    return {"x": random([2, 2, *sizes]), "g": grid}, attributes, shapes if draw(st.booleans()) else {}


@RUNS
@given(grids((2,)))
def test_grids_over_images(case: Any) -> None:
    arrays, attributes, shapes = case
    graph = agrees(one_node("GridSample", arrays, attributes, 20, symbolic=shapes), arrays)
    assert is_translated(graph) == ((attributes["mode"], attributes["padding_mode"]) != ("cubic", "border"))


@settings(max_examples=25, deadline=None)
@given(grids((1, 3)))
def test_grids_over_lines_and_volumes(case: Any) -> None:
    arrays, attributes, shapes = case
    model = one_node("GridSample", arrays, attributes, 20, symbolic=shapes)
    graph = read_onnx(model)
    assert is_translated(graph)
    result = Interpreter(graph).run(*map(torch.from_numpy, arrays.values()))[0]
    wanted = ReferenceEvaluator(model).run(None, arrays)[0]
    torch.testing.assert_close(result, torch.from_numpy(wanted), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_a_grid_over_an_image_is_one_operator(mode: str) -> None:
    arrays = {"x": random([1, 2, 4, 5]), "g": np.clip(random([1, 3, 3, 2], 1), -1, 1)}
    graph = agrees(one_node("GridSample", arrays, {"mode": mode}, 16), arrays)
    assert [node.op.name for node in graph] == ["aten.grid_sampler"]


@pytest.mark.parametrize("size", [[2, 3, 4, 5], [2, 3, 2, 4, 5]])
@pytest.mark.parametrize("aligned", [0, 1])
def test_regular_grids(size: list[int], aligned: int) -> None:
    rank = len(size) - 2
    theta = {"theta": random([2, rank, rank + 1])}
    model = one_node("AffineGrid", theta, {"align_corners": aligned}, 20, {"size": np.array(size)})
    graph = agrees(model, theta)
    assert [node.op.name for node in graph] == ["aten.affine_grid_generator"]


@RUNS
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 1), st.integers(1, 2), st.integers(1, 2)),
    st.booleans(),
    st.booleans(),
)
def test_deformable_convolutions(kernel: Any, options: Any, modulated: bool, symbolic: bool) -> None:
    stride, dilation, pad, group, offsets = options
    taps, channels, outputs = kernel[0] * kernel[1], 4, 6
    places = [(s + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for s, k in zip((7, 6), kernel)]
    arrays = {
        "x": random([2, channels, 7, 6]),
        "w": random([outputs, channels // group, *kernel], 1),
        "o": 2 * random([2, offsets * taps * 2, *places], 2),
        "b": random([outputs], 3),
    }
    if modulated:
        arrays["m"] = random([2, offsets * taps, *places], 4)
    attributes = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": [pad] * 4}
    attributes |= {"group": group, "offset_group": offsets}
    shapes = {"x": ["n", channels, "h", "w"], "o": ["n", offsets * taps * 2, "p", "q"]} if symbolic else {}
    if symbolic and modulated:
        shapes["m"] = ["n", offsets * taps, "p", "q"]
    assert is_translated(agrees(one_node("DeformConv", arrays, attributes, 19, symbolic=shapes), arrays))


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("symbolic", [False, True])
def test_aligned_regions(mode: str, coordinates: str, samples: int, symbolic: bool) -> None:
    corners = np.random.default_rng(1).uniform(-6, 30, [20, 4]).astype(np.float32)
    arrays = {"x": random([2, 3, 7, 9]), "rois": corners, "images": np.arange(20) % 2}
    attributes = {"output_height": 3, "output_width": 2, "sampling_ratio": samples, "spatial_scale": 0.5}
    attributes |= {"mode": mode, "coordinate_transformation_mode": coordinates}
    shapes = {"x": ["n", 3, "h", "w"], "rois": ["r", 4], "images": ["r"]} if symbolic else {}
    assert is_translated(agrees(one_node("RoiAlign", arrays, attributes, 16, symbolic=shapes), arrays))


@pytest.mark.parametrize("symbolic", [False, True])
def test_the_largest_of_regions(symbolic: bool) -> None:
    rng = np.random.default_rng(2)
    starts = rng.uniform(-3, 12, [20, 2])
    corners = np.concatenate([starts, starts + rng.uniform(0, 9, [20, 2])], 1)
    rois = np.concatenate([np.arange(20)[:, None] % 2, corners], 1).astype(np.float32)
    arrays = {"x": random([2, 3, 7, 9]), "rois": rois}
    shapes = {"x": ["n", 3, "h", "w"], "rois": ["r", 5]} if symbolic else {}
    attributes = {"pooled_shape": [3, 2], "spatial_scale": 0.75}
    assert is_translated(agrees(one_node("MaxRoiPool", arrays, attributes, 16, symbolic=shapes), arrays))


def test_engines_for_onnx_get_the_operators_that_they_have() -> None:
    arrays = {"x": random([1, 3, 7, 9]), "rois": np.abs(random([4, 4], 1)), "images": np.zeros(4, dtype=np.int64)}
    model = one_node("RoiAlign", arrays, {"sampling_ratio": 2}, 16)
    args = [torch.from_numpy(array) for array in arrays.values()]
    for target, kept in (("onnxruntime", True), ("fx", False)):
        compiled = graphopt.compile(model, args, target=target)
        assert is_translated(compiled.graph) != kept
        assert ([node.op_type for node in compiled.to_onnx().graph.node] == ["RoiAlign"]) == kept
        torch.testing.assert_close(compiled(*args), torch.from_numpy(expected_of(model, arrays)[0]))


def test_no_regions() -> None:
    """A detector that found nothing."""
    arrays = {"x": random([1, 3, 7, 9]), "rois": random([0, 4]), "images": np.zeros(0, dtype=np.int64)}
    model = one_node("RoiAlign", arrays, {"sampling_ratio": 2}, 16, symbolic={"rois": ["r", 4], "images": ["r"]})
    assert is_translated(agrees(model, arrays))
