"""Resize in every mode against ONNX Runtime and ONNX's reference, with known and unknown sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

import graphopt
from graphopt.analysis import Interpreter
from graphopt.frontends.onnx import read_onnx
from graphopt.testing.onnx_backend import session_of
from tests.frontends.onnx.oracle import agrees, expected_of, is_translated, one_node

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
SCALES = (0.3, 0.5, 0.6, 1.0, 1.5, 2.0, 2.3, 3.0)
RUNS = settings(max_examples=80, deadline=None)


def image(shape: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def resized(x: np.ndarray, attributes: Any, scales: Any = None, sizes: Any = None, roi: Any = None, **more: Any) -> Any:
    constants, names = {}, ["x", "", "", ""]
    given = (("roi", roi, np.float32), ("scales", scales, np.float32), ("sizes", sizes, np.int64))
    for index, (name, values, dtype) in enumerate(given, 1):
        if values is not None:
            constants[name], names[index] = np.array(values, dtype=dtype), name
    while not names[-1]:
        names.pop()
    return one_node("Resize", {"x": x}, attributes, more.pop("opset", 19), constants, names=names, **more)


@st.composite
def cases(draw: Any) -> tuple[np.ndarray, dict[str, Any], dict[str, list[Any]], list[Any]]:
    """An image, attributes, scales or sizes, and the symbolic shape."""
    mode = draw(st.sampled_from(["nearest", "linear", "cubic"]))
    rank = 2 if mode == "cubic" else draw(st.integers(1, 3))
    spatial = [draw(st.integers(1, 8)) for _ in range(rank)]
    attributes = {"mode": mode, "coordinate_transformation_mode": draw(st.sampled_from(COORDINATES))}
    if mode == "nearest":
        attributes["nearest_mode"] = draw(st.sampled_from(ROUNDINGS))
    else:
        attributes["antialias"] = int(rank == 2 and draw(st.booleans()))
        attributes["exclude_outside"] = int((attributes["antialias"] or mode == "cubic") and draw(st.booleans()))
    if mode == "cubic":
        attributes["cubic_coeff_a"] = draw(st.sampled_from([-0.75, -0.5]))
    if draw(st.booleans()):
        target = {"scales": [1.0, 1.0, *(draw(st.sampled_from(SCALES)) for _ in spatial)]}
        assume(all(int(np.float32(d) * np.float32(s)) >= 1 for d, s in zip(spatial, target["scales"][2:])))
    else:
        target = {"sizes": [2, 1, *(draw(st.integers(1, 12)) for _ in spatial)]}
    shape = ["n", "c", *(f"d{i}" for i in range(rank))] if draw(st.booleans()) else [2, 1, *spatial]
    return image([2, 1, *spatial]), attributes, target, shape


@RUNS
@given(cases())
def test_resize_is_that_of_onnx_runtime(case: Any) -> None:
    x, attributes, target, shape = case
    whole = all(float(s * d).is_integer() for s, d in zip(target.get("scales", ()), x.shape))
    if attributes["coordinate_transformation_mode"] == "align_corners":
        assume(whole)  # of a fraction, ONNX's reference and ONNX Runtime think differently; see the next test
    if attributes["mode"] == "nearest" and shape[0] == "n":
        assume(_are_quarters(x, target))
    agrees(resized(x, attributes, **target, symbolic={"x": shape}), {"x": x})


def _are_quarters(x: np.ndarray, target: Any) -> bool:
    """True if points between elements are exact, so that which of them is nearest is no matter of rounding."""
    factors = target.get("scales") or [out / size for out, size in zip(target["sizes"], x.shape)]
    return all((4 * factor).is_integer() for factor in factors)


@RUNS
@given(cases())
def test_resize_is_that_of_the_reference(case: Any) -> None:
    x, attributes, target, shape = case
    if attributes["mode"] == "nearest":
        assume(_are_quarters(x, target))
    assume(not any(s * d % 1 > 0.9999 for s, d in zip(target.get("scales", ()), x.shape)))
    if "scales" in target:  # where a point is an element but for rounding, it takes the wrong neighbours
        assume(attributes["coordinate_transformation_mode"] != "half_pixel_symmetric")
    model = resized(x, attributes, **target, symbolic={"x": shape})
    graph = read_onnx(model)
    assume(is_translated(graph))
    result = Interpreter(graph).run(torch.from_numpy(x))[0]
    wanted = torch.from_numpy(ReferenceEvaluator(model).run(None, {"x": x})[0])
    torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-4)


@RUNS
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.lists(st.sampled_from([0.0, 0.1, 0.25, -0.2]), min_size=2, max_size=2),
    st.lists(st.sampled_from([1.0, 0.6, 0.75, 1.3]), min_size=2, max_size=2),
    st.lists(st.integers(1, 9), min_size=2, max_size=2),
)
def test_crops(mode: str, starts: list[float], ends: list[float], sizes: list[int]) -> None:
    x = image([1, 2, 5, 7])
    attributes = {"mode": mode, "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 7.0}
    roi = [0, 0, *starts, 1, 1, *ends]
    agrees(resized(x, attributes, sizes=[1, 2, *sizes], roi=roi), {"x": x})


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [3], [1, 2]])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_axes_and_aspect_ratios(policy: str, axes: list[int], mode: str) -> None:
    x = image([1, 2, 6, 9])
    sizes = [12, 9, 4][: len(axes)]
    agrees(resized(x, {"mode": mode, "axes": axes, "keep_aspect_ratio_policy": policy}, sizes=sizes), {"x": x})


WHOLE = [
    (
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        "upsample_nearest2d",
    ),
    ({"mode": "nearest"}, "upsample_nearest2d"),
    ({"mode": "nearest", "nearest_mode": "round_prefer_ceil"}, "upsample_nearest2d"),
    ({"mode": "linear"}, "upsample_bilinear2d"),
    ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, "upsample_bilinear2d"),
    ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "upsample_bilinear2d"),
    ({"mode": "cubic"}, "upsample_bicubic2d"),
]


@pytest.mark.parametrize(("attributes", "name"), WHOLE)
@pytest.mark.parametrize("shape", [["n", 2, 5, 6], ["n", 2, "h", "w"]])
def test_the_usual_enlargements_are_one_operator(attributes: Any, name: str, shape: list[Any]) -> None:
    x = image([1, 2, 5, 6])
    graph = agrees(resized(x, attributes, scales=[1, 1, 2, 2], symbolic={"x": shape}), {"x": x})
    assert [node.op.name for node in graph] == [f"aten.{name}"]


def test_the_size_of_another_tensor() -> None:
    """Sizes that the model computes from shapes are dims; the nearest element of each is one operator."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Shape", ["y"], ["size"], start=2),
        helper.make_node("Shape", ["x"], ["lead"], end=2),
        helper.make_node("Concat", ["lead", "size"], ["sizes"], axis=0),
        helper.make_node(
            "Resize",
            ["x", "", "", "sizes"],
            ["z"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2, f"{n}h", f"{n}w"]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_empty_tensor_value_info("z")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    arrays = {"x": image([1, 2, 3, 5]), "y": image([1, 2, 7, 9])}
    found = agrees(model, arrays)
    assert [node.op.name for node in found] == ["aten.upsample_nearest2d"]
    assert str(found.outputs[0].type) == "f32[n, 2, yh, yw]"


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("opset", [9, 10])
def test_the_oldest_forms(mode: str, opset: int) -> None:
    x, scales = image([1, 2, 4, 5]), np.array([1, 1, 2, 3], dtype=np.float32)
    name = "Upsample" if opset == 9 else "Resize"
    agrees(one_node(name, {"x": x}, {"mode": mode}, opset, {"scales": scales}), {"x": x})


def test_half_precision_and_other_types() -> None:
    x = image([1, 1, 4, 4])
    for dtype in (np.int32, np.uint8, np.int8):
        agrees(resized(x.astype(dtype), {"mode": "nearest"}, scales=[1, 1, 2, 1.5]), {"x": x.astype(dtype)})
    half = Interpreter(read_onnx(resized(x.astype(np.float16), {"mode": "linear", "antialias": 1}, sizes=[1, 1, 3, 2])))
    single = Interpreter(read_onnx(resized(x, {"mode": "linear", "antialias": 1}, sizes=[1, 1, 3, 2])))
    wanted = single.run(torch.from_numpy(x))[0]
    result = half.run(torch.from_numpy(x).half())[0]
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.float(), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("target", [{"scales": [1, 1, 2, 2]}, {"sizes": [1, 2, 7, 9]}])
def test_it_is_written_in_the_opset_that_it_came_in(opset: int, target: Any) -> None:
    """Before opset 13, what is left out is an empty tensor."""
    x = image([1, 2, 5, 6])
    names, constants = ["x", "roi", "scales", "sizes"], {"roi": [], "scales": [], "sizes": [], **target}
    if opset >= 13:
        names = [name if name == "x" or constants[name] else "" for name in names]
    names = names[: 4 if "sizes" in target else 3]
    stored = {n: np.array(constants[n], dtype=np.int64 if n == "sizes" else np.float32) for n in names[1:] if n}
    model = one_node("Resize", {"x": x}, {"mode": "linear"}, opset, stored, names=names)
    written = graphopt.compile(model, [torch.from_numpy(x)], target="fx").to_onnx()
    assert written.opset_import[0].version == opset
    assert [node.op_type for node in written.graph.node] == ["Resize"]
    wanted = expected_of(model, {"x": x})[0]
    np.testing.assert_allclose(session_of(written).run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-6)
