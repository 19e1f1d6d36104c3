"""Pooling, convolution, and patches, against ONNX Runtime: padding, rounding, dilation, unknown sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from tests.frontends.onnx.oracle import agrees, is_translated, one_node

RUNS = settings(max_examples=40, deadline=None)


def random(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@st.composite
def windows(draw: Any, dilated: bool = True) -> tuple[list[int], dict[str, Any], list[Any]]:
    """Sizes, attributes of windows that fit into them, and symbolic sizes."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    padding = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID", "none"]))
    same = padding.startswith("SAME")
    attributes["strides"] = [draw(st.integers(1, k if same else 3)) for k in kernel]
    if dilated and not same:
        attributes["dilations"] = [draw(st.integers(1, 2)) for _ in kernel]
    if padding == "pads":
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    elif padding != "none":
        attributes["auto_pad"] = padding
    sizes = [draw(st.integers(5, 9)) for _ in range(rank)]
    return sizes, attributes, [f"d{i}" for i in range(rank)] if draw(st.booleans()) else sizes


@RUNS
@given(windows(), st.sampled_from([0, 1]), st.booleans(), st.sampled_from([0, 1]))
def test_maxima(case: Any, ceil: int, indices: bool, order: int) -> None:
    sizes, attributes, shape = case
    attributes |= {"ceil_mode": ceil, "storage_order": order}
    x = {"x": random([2, 2, *sizes])}
    outputs = ["y", "i"] if indices else ["y"]
    model = one_node("MaxPool", x, attributes, 12, symbolic={"x": ["n", 2, *shape]}, outputs=outputs)
    assert is_translated(agrees(model, x))


@RUNS
@given(windows(), st.sampled_from([0, 1]), st.sampled_from([0, 1]))
def test_means(case: Any, ceil: int, include: int) -> None:
    sizes, attributes, shape = case
    attributes |= {"ceil_mode": ceil, "count_include_pad": include}
    x = {"x": random([2, 2, *sizes])}
    assert is_translated(agrees(one_node("AveragePool", x, attributes, 19, symbolic={"x": ["n", 2, *shape]}), x))


@RUNS
@given(windows(), st.sampled_from([0, 1]), st.sampled_from([1, 2, 3]))
def test_norms(case: Any, ceil: int, p: int) -> None:
    sizes, attributes, shape = case
    attributes |= {"ceil_mode": ceil, "p": p}
    x = {"x": random([2, 2, *sizes])}
    assert is_translated(agrees(one_node("LpPool", x, attributes, 18, symbolic={"x": ["n", 2, *shape]}), x))


@RUNS
@given(windows())
def test_convolutions(case: Any) -> None:
    sizes, attributes, shape = case
    x = {"x": random([2, 2, *sizes])}
    weight = {"w": random([3, 2, *attributes["kernel_shape"]], 1)}
    assert is_translated(agrees(one_node("Conv", x, attributes, 11, weight, symbolic={"x": ["n", 2, *shape]}), x))


@pytest.mark.parametrize(
    ("image", "block", "attributes"),
    [
        ([5, 6], [2, 3], {}),
        ([5, 6], [2, 3], {"pads": [1, 0, 1, 0], "strides": [2, 1]}),
        ([5, 6], [2, 2], {"pads": [1, 0, 0, 2], "dilations": [2, 1]}),
        ([3, 4, 5], [2, 2, 2], {"strides": [1, 2, 1]}),
        ([3, 4, 5], [2, 1, 2], {"pads": [1, 0, 0, 0, 1, 1]}),
    ],
)
def test_columns_become_images(image: list[int], block: list[int], attributes: dict[str, Any]) -> None:
    rank = len(image)
    pads, strides = attributes.get("pads", [0] * 2 * rank), attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    counts = [
        (image[i] + pads[i] + pads[i + rank] - (block[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)
    ]
    x = {"x": random([2, 3 * int(np.prod(block)), int(np.prod(counts))])}
    sizes = {"image": np.array(image), "block": np.array(block)}
    model = one_node("Col2Im", x, attributes, 18, sizes, symbolic={"x": ["n", *x["x"].shape[1:]]})
    assert is_translated(agrees(model, x))


@pytest.mark.parametrize("wanted", [[4, 4], [3, 9], [10, 5], [7, 8]])
@pytest.mark.parametrize("symbolic", [False, True])
def test_crops_and_pads_about_the_centre(wanted: list[int], symbolic: bool) -> None:
    x = {"x": random([7, 2, 8])}
    shapes = {"x": ["h", 2, "w"]} if symbolic else {}
    sizes = {"shape": np.array(wanted)}
    model = one_node("CenterCropPad", x, {"axes": [0, -1]}, 18, sizes, symbolic=shapes)
    assert is_translated(agrees(model, x))


def test_maxima_find_their_way_back() -> None:
    x = random([2, 3, 6, 8])
    shape = {"x": ["n", 3, 6, 8]}
    pooled = one_node(
        "MaxPool", {"x": x}, {"kernel_shape": [2, 2], "strides": [2, 2]}, 12, outputs=["y", "i"], symbolic=shape
    )
    y, indices = Interpreter(read_onnx(pooled)).run(torch.from_numpy(x))
    arrays = {"y": y.numpy(), "i": indices.numpy()}
    unpooled = one_node("MaxUnpool", arrays, {"kernel_shape": [2, 2], "strides": [2, 2]}, 11, outputs=["z"])
    assert is_translated(agrees(unpooled, arrays))


@RUNS
@given(
    st.sampled_from(["constant", "edge", "reflect", "wrap"]),
    st.lists(st.integers(-1, 3), min_size=4, max_size=4),
    st.sampled_from([[0, 1], [1, 2], [2, -1], [-2, 0]]),
    st.booleans(),
)
def test_padding(mode: str, pads: list[int], axes: list[int], symbolic: bool) -> None:
    assume(mode != "reflect" or max(pads) <= 2)  # ONNX Runtime reflects once
    x = {"x": random([4, 5, 4, 6])}
    shape = {"x": ["a", "b", "c", "d"]} if symbolic else {}
    operands = {"pads": np.array(pads), "axes": np.array(axes)}
    if mode == "constant":
        x["fill"] = np.array(2.5, dtype=np.float32)
    names = ["x", "pads", "fill" if mode == "constant" else "", "axes"]
    model = one_node("Pad", x, {"mode": mode}, 19, operands, symbolic=shape, names=names)
    mixed = mode in ("reflect", "wrap") and any(min(ends) < 0 <= max(ends) for ends in zip(pads[:2], pads[2:]))
    assert is_translated(agrees(model, x)) != mixed
