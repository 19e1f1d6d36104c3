"""What public bug reports say of other optimizers: each rebuilt as a small model, on which the answer must be kept.

The judge is ONNX Runtime with its graph optimizations off, on the original and on what is compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphopt

Feeds = dict[str, np.ndarray]
node = helper.make_node


def value(name: str, shape: Sequence[Any] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    stored: dict[str, Any] | None = None,
    opset: int = 19,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(data), name) for name, data in (stored or {}).items()]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", list(inputs), results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(proto: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {given.name: feeds[given.name] for given in session.get_inputs()})


def keeps_the_answer(proto: onnx.ModelProto, *feeds: Feeds, exact: bool = False) -> onnx.ModelProto:
    compiled = graphopt.compile(proto.SerializeToString(), target="onnxruntime", on_failure="raise")
    result = compiled.to_onnx()
    for given in feeds:
        expected, found = run(proto, given), run(result, given)
        assert len(expected) == len(found)
        for want, got in zip(expected, found):
            assert want.shape == got.shape and want.dtype == got.dtype
            if exact or want.dtype.kind != "f":
                np.testing.assert_array_equal(got, want)
            else:
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * np.abs(want).max(initial=1.0))
    return result


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


F32, I64 = np.float32, np.int64


# Initializers that are taken for one (onnxsim #265, "the divisor changed from 4 to 2")


def test_constants_that_look_alike_stay_apart() -> None:
    nodes = [node("Div", ["x", "two"], ["a"]), node("Mul", ["y", "four"], ["b"]), node("Add", ["a", "b"], ["z"])]
    proto = model(nodes, [value("x", [2, 3]), value("y", [2, 3])], ["z"], {"two": F32(2), "four": F32(4)})
    keeps_the_answer(proto, {"x": floats(2, 3), "y": floats(2, 3, seed=1)})


def test_constants_with_the_same_bytes_and_another_type_or_shape() -> None:
    stored = {
        "i": np.array([1, 0], np.int32),
        "f": np.array([1, 0], np.int32).view(np.float32),
        "flat": np.arange(4, dtype=np.float32),
        "square": np.arange(4, dtype=np.float32).reshape(2, 2),
    }
    nodes = [
        node("Cast", ["i"], ["c"], to=TensorProto.FLOAT),
        node("Sub", ["x", "c"], ["a"]),
        node("Add", ["x", "f"], ["b"]),
        node("MatMul", ["x", "square"], ["m"]),
        node("Add", ["wide", "flat"], ["w"]),
    ]
    inputs = [value("x", [3, 2]), value("wide", [3, 4])]
    keeps_the_answer(model(nodes, inputs, ["a", "b", "m", "w"], stored), {"x": floats(3, 2), "wide": floats(3, 4)})


def test_zeros_of_both_signs_stay_apart() -> None:
    nodes = [node("Mul", ["x", "plus"], ["p"]), node("Mul", ["x", "minus"], ["m"])]
    nodes += [node("Reciprocal", [a], [b]) for a, b in (("p", "rp"), ("m", "rm"))]
    proto = model(nodes, [value("x", [4])], ["rp", "rm"], {"plus": F32(0.0), "minus": F32(-0.0)})
    keeps_the_answer(proto, {"x": np.array([1, -1, np.inf, np.nan], F32)}, exact=True)


# A weight that two layers share (onnxsim #79: a batch norm was folded into the weight of both)


@pytest.mark.parametrize("returned", [False, True])
def test_a_batch_norm_behind_one_of_two_layers_that_share_a_weight(returned: bool) -> None:
    stored = {"w": floats(4, 4, 3, 3), **{name: np.abs(floats(4, seed=i)) + 0.5 for i, name in enumerate("sbmv")}}
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1] * 4),
        node("BatchNormalization", ["a", *"sbmv"], ["n"]),
        node("Conv", ["n", "w"], ["y"], pads=[1] * 4),
        node("Mul", ["w", "s4"], ["scaled"]),
    ]
    proto = model(nodes, [value("x", ["N", 4, 6, 6])], ["y", "scaled"], {**stored, "s4": F32(2)})
    if returned:
        proto.graph.output.append(value("w", [4, 4, 3, 3]))
    keeps_the_answer(proto, {"x": floats(1, 4, 6, 6)}, {"x": floats(3, 4, 6, 6)})


# Equal expressions that are not (onnx/optimizer #254)


def alike() -> list[onnx.NodeProto]:
    return [
        node("Softmax", ["x"], ["a"], axis=0),
        node("Softmax", ["x"], ["b"], axis=1),
        node("Sub", ["x", "y"], ["c"]),
        node("Sub", ["y", "x"], ["d"]),
        node("Clip", ["x", "half"], ["e"]),
        node("Clip", ["x", "", "half"], ["f"]),
        node("Gemm", ["x", "y"], ["g"], transB=1),
        node("Gemm", ["x", "y"], ["h"], transA=1),
        node("ReduceSum", ["x", "axis"], ["i"], keepdims=0),
        node("ReduceSum", ["x"], ["j"], keepdims=0, noop_with_empty_axes=0),
        node("ReduceSum", ["x"], ["k"], keepdims=0, noop_with_empty_axes=1),
    ]


def test_expressions_that_differ_in_an_attribute_or_in_the_place_of_an_operand() -> None:
    nodes = alike()
    outputs = [n.output[0] for n in nodes]
    stored = {"half": F32(0.5), "axis": np.array([1], I64)}
    proto = model(nodes, [value("x", [3, 3]), value("y", [3, 3])], outputs, stored)
    keeps_the_answer(proto, {"x": floats(3, 3), "y": floats(3, 3, seed=1)})


def test_branches_alike_under_other_conditions() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        return helper.make_graph([node(op, ["x"], [name])], name, [], [value(name, None)])

    nodes = [
        node("If", [condition], [out], then_branch=branch(f"t{out}", "Relu"), else_branch=branch(f"e{out}", "Neg"))
        for condition, out in (("p", "a"), ("q", "b"))
    ]
    inputs = [value("x", [3]), *(value(n, [], TensorProto.BOOL) for n in "pq")]
    cases = [{"x": floats(3), "p": np.array(p), "q": np.array(not p)} for p in (True, False)]
    keeps_the_answer(model(nodes, inputs, ["a", "b"]), *cases)


def test_two_draws_stay_two() -> None:
    nodes = [node("RandomNormalLike", ["x"], [name]) for name in "ab"] + [node("Sub", ["a", "b"], ["y"])]
    result = keeps_the_answer(model(nodes, [value("x", [64])], ["y"]))
    assert np.abs(run(result, {"x": floats(64)})[0]).max() > 0.1


# Expansions and reshapes that change something after all (onnx/optimizer #275, #282)

EXPANDS: list[tuple[list[int], list[int]]] = [
    ([2, 1, 3], [1, 4, 1]),
    ([3], [1, 3]),
    ([1, 3], [1, 1]),
    ([2, 3], [3]),
    ([1], [2, 0, 1]),
    ([2, 3], [2, 3]),
]


@pytest.mark.parametrize(("shape", "target"), EXPANDS)
def test_expand(shape: list[int], target: list[int]) -> None:
    proto = model([node("Expand", ["x", "t"], ["y"])], [value("x", shape)], ["y"], {"t": np.array(target, I64)})
    keeps_the_answer(proto, {"x": floats(*shape)}, exact=True)


def test_expand_to_a_shape_that_is_only_sometimes_the_same() -> None:
    nodes = [node("Shape", ["y"], ["s"]), node("Expand", ["x", "s"], ["z"])]
    proto = model(nodes, [value("x", ["N", 1]), value("y", ["N", "M"])], ["z"])
    keeps_the_answer(
        proto,
        {"x": floats(3, 1), "y": floats(3, 4)},
        {"x": floats(2, 1), "y": floats(2, 1)},
        {"x": floats(1, 1), "y": floats(1, 5)},
        exact=True,
    )


RESHAPES: list[tuple[list[Any], list[int], int]] = [
    (["N", 4], [-1, 4], 0),
    (["N", 4], [4, -1], 0),
    (["N", 4], [0, -1, 2], 0),
    (["N", "M"], [0, 0], 0),
    (["N", 4], [0, 4], 0),
    ([0, 4], [0, 2], 1),
    ([0, 4], [4, 0], 1),
    ([2, 3], [3, 2], 0),
]


@pytest.mark.parametrize(("shape", "target", "allowzero"), RESHAPES)
def test_reshape(shape: list[Any], target: list[int], allowzero: int) -> None:
    nodes = [node("Reshape", ["x", "t"], ["y"], allowzero=allowzero)]
    proto = model(nodes, [value("x", shape)], ["y"], {"t": np.array(target, I64)})
    sizes = [{"N": 3, "M": 2}, {"N": 4, "M": 4}, {"N": 1, "M": 1}]
    feeds = [{"x": floats(*[s.get(d, d) if isinstance(d, str) else d for d in shape])} for s in sizes]
    keeps_the_answer(proto, *feeds, exact=True)


def test_reshape_to_the_shape_of_another() -> None:
    """As many elements, other dims: equal only where N = M."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0]),
        node("Shape", ["t"], ["s"]),
        node("Reshape", ["x", "s"], ["y"]),
    ]
    proto = model(nodes, [value("x", ["N", "M"])], ["y"])
    keeps_the_answer(proto, {"x": floats(2, 3)}, {"x": floats(3, 3)}, {"x": floats(1, 4)}, exact=True)


# Slices that are merged (OnnxSlim #277), and chains of them

SLICES = [
    [([1], [6], [0], [1]), ([1], [4], [0], [1])],
    [([-6], [-1], [0], [1]), ([1], [3], [0], [1])],
    [([0], [2**62], [0], [2]), ([1], [3], [0], [1])],
    [([7], [-(2**62)], [0], [-1]), ([1], [5], [0], [2])],
    [([1], [6], [0], [1]), ([1], [3], [1], [1])],
    [([1, 0], [6, 3], [0, 1], [1, 1]), ([1, 1], [3, 2], [1, 0], [1, 1])],
    [([2], [2], [0], [1]), ([0], [5], [0], [1])],
    [([5], [100], [0], [1]), ([-2], [100], [0], [1])],
]


@pytest.mark.parametrize("chain", SLICES)
@pytest.mark.parametrize("shared", [False, True])
def test_slices_of_slices(chain: list[tuple[list[int], ...]], shared: bool) -> None:
    nodes, stored, last = [], {}, "x"
    for index, parts in enumerate(chain):
        names = [f"{part}{index}" for part in ("start", "end", "axis", "step")]
        stored |= {name: np.array(numbers, I64) for name, numbers in zip(names, parts)}
        nodes.append(node("Slice", [last, *names], [f"y{index}"]))
        last = f"y{index}"
    proto = model(nodes, [value("x", [8, 4])], ["y0", "y1"] if shared else ["y1"], stored)
    keeps_the_answer(proto, {"x": floats(8, 4)}, exact=True)


# Folding of constants (OnnxSlim #15: filters computed in the model and sizes from a chain; onnxruntime #29788:
# constants that share memory through reshapes; NaN that was there before, or was masked)


def test_filters_computed_in_the_model_and_sizes_from_a_chain() -> None:
    """A sinc filter: 0/0 in the middle is replaced by its limit; then a convolution of dynamic length."""
    stored = {
        "start": F32(-3),
        "limit": F32(4),
        "delta": F32(1),
        "cut": F32(0.7),
        "zero": F32(0),
        "one": F32(1),
        "kernel": np.array([1, 1, -1], I64),
        "two": np.array(2, I64),
        "axis": np.array([0], I64),
        "minus": np.array([-1], I64),
    }
    nodes = [
        node("Range", ["start", "limit", "delta"], ["n"]),
        node("Mul", ["n", "cut"], ["phase"]),
        node("Sin", ["phase"], ["sine"]),
        node("Div", ["sine", "phase"], ["raw"]),
        node("Equal", ["phase", "zero"], ["middle"]),
        node("Where", ["middle", "one", "raw"], ["sinc"]),
        node("Reshape", ["sinc", "kernel"], ["w"]),
        node("Conv", ["x", "w"], ["y"]),
        node("Shape", ["y"], ["shape"]),
        node("Gather", ["shape", "two"], ["length"]),
        node("Unsqueeze", ["length", "axis"], ["vector"]),
        node("Concat", ["minus", "vector"], ["target"], axis=0),
        node("Reshape", ["y", "target"], ["z"]),
    ]
    proto = model(nodes, [value("x", ["B", 1, "T"])], ["z"], stored)
    keeps_the_answer(proto, {"x": floats(2, 1, 20)}, {"x": floats(1, 1, 9)}, {"x": floats(5, 1, 31)})


def test_constants_that_are_views_of_one_another() -> None:
    stored = {"w": floats(1, 6, 1), "shape": np.array([2, 3], I64), "axes": np.array([0, 2], I64), "dead": floats(6)}
    nodes = [
        node("Reshape", ["w", "shape"], ["r"]),
        node("Squeeze", ["w", "axes"], ["s"]),
        node("Flatten", ["w"], ["f"], axis=1),
        node("Transpose", ["r"], ["t"], perm=[1, 0]),
        node("Identity", ["s"], ["i"]),
        node("MatMul", ["x", "t"], ["a"]),
        node("Add", ["i", "dead"], ["b"]),
        node("Mul", ["f", "b"], ["c"]),
    ]
    proto = model(nodes, [value("x", ["N", 3])], ["a", "c"], stored)
    result = keeps_the_answer(proto, {"x": floats(2, 3)}, {"x": floats(4, 3)})
    again = [run(result, {"x": floats(2, 3)}) for _ in range(3)]
    assert all(np.array_equal(a, b) for later in again for a, b in zip(again[0], later))


def test_nan_of_a_constant_stays_and_none_appears() -> None:
    stored = {
        "zero": np.zeros(3, F32),
        "mask": np.array([True, False, True]),
        "minus": F32(-1),
        "hidden": np.full((1, 3), -np.inf, F32),
        "huge": F32(3e38),
    }
    nodes = [
        node("Div", ["zero", "zero"], ["nan"]),
        node("Where", ["mask", "x", "nan"], ["a"]),
        node("Where", ["mask", "nan", "x"], ["b"]),
        node("Log", ["minus"], ["log"]),
        node("Add", ["x", "log"], ["c"]),
        node("Mul", ["x", "zero"], ["d"]),
        node("Softmax", ["hidden"], ["e"]),
        node("Sub", ["x", "x"], ["f"]),
        node("Add", ["x", "huge"], ["g0"]),
        node("Sub", ["g0", "huge"], ["g"]),
        node("Max", ["x", "nan"], ["h"]),
    ]
    proto = model(nodes, [value("x", [3])], list("abcdefgh"), stored)
    keeps_the_answer(proto, {"x": np.array([1, 2, -3], F32)}, {"x": np.array([np.inf, np.nan, -0.0], F32)}, exact=True)


# Rounding ties (onnxruntime #32132: quantized layers fused to integers differ by one step at ties)


def quantized(op: str, final: float) -> onnx.ModelProto:
    stored = {"s": F32(0.05), "z": np.uint8(128), "t": F32(0.03), "f": F32(final)}
    nodes = []
    for name, scale in (("x", "s"), ("y", "t")):
        nodes.append(node("QuantizeLinear", [name, scale, "z"], [f"{name}q"]))
        nodes.append(node("DequantizeLinear", [f"{name}q", scale, "z"], [f"{name}d"]))
    nodes.append(node(op, ["xd", "yd"], ["sum"]))
    nodes.append(node("QuantizeLinear", ["sum", "f", "z"], ["q"]))
    nodes.append(node("DequantizeLinear", ["q", "f", "z"], ["r"]))
    return model(nodes, [value("x", [16, 16]), value("y", [16, 16])], ["r", "q"], stored)


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("final", [0.38, 0.16, 0.1, 0.02])
def test_quantized_layers_at_ties(op: str, final: float) -> None:
    rng = np.random.default_rng(0)
    x, y = ((rng.integers(-128, 128, (16, 16)) * scale).astype(F32) for scale in (0.05, 0.03))
    keeps_the_answer(quantized(op, final), {"x": x, "y": y}, exact=True)


def test_rounding_and_division_of_halves_and_negative_numbers() -> None:
    nodes = [
        node("Round", ["x"], ["a"]),
        node("Cast", ["x"], ["b"], to=TensorProto.INT64),
        node("QuantizeLinear", ["x", "one", "zero"], ["c"]),
        node("Div", ["i", "three"], ["d"]),
        node("Mod", ["i", "three"], ["e"]),
        node("Mul", ["x", "tenth"], ["f"]),
        node("Div", ["x", "ten"], ["g"]),
    ]
    stored = {"one": F32(1), "zero": np.int8(0), "three": I64(3), "tenth": F32(0.1), "ten": F32(10)}
    proto = model(nodes, [value("x", [8]), value("i", [8], TensorProto.INT64)], list("abcdefg"), stored)
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, -129.7], F32)
    keeps_the_answer(proto, {"x": halves, "i": np.array([-7, -6, -1, 0, 1, 5, 6, 7], I64)}, exact=True)


# Axes that are dropped (onnxscript #2810: the axes of a Squeeze in a branch; onnxsim #305: empty operands of a Resize)


@pytest.mark.parametrize("known", [None, True, False])
def test_squeeze_in_a_branch(known: bool | None) -> None:
    axes = numpy_helper.from_array(np.array([1], I64), "axes")

    def branch(name: str, nodes: list[onnx.NodeProto], stored: list[onnx.TensorProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [value(name, None)], stored)

    then = branch("t", [node("Squeeze", ["x", "axes"], ["t"])], [axes])
    other = branch("e", [node("Identity", ["x"], ["e"])], [])
    inputs = [value("x", ["N", 1, 1, 3])]
    if known is None:
        inputs.append(value("p", [], TensorProto.BOOL))
    stored = {} if known is None else {"p": np.array(known)}
    proto = model([node("If", ["p"], ["y"], then_branch=then, else_branch=other)], inputs, ["y"], stored)
    for p in (True, False) if known is None else (known,):
        keeps_the_answer(proto, {"x": floats(2, 1, 1, 3), "p": np.array(p)}, exact=True)


@pytest.mark.parametrize("axes", [[1], [-1], [1, 2], []])
def test_squeeze(axes: list[int]) -> None:
    stored = {"axes": np.array(axes, I64)} if axes else {}
    nodes = [node("Squeeze", ["x", "axes"] if axes else ["x"], ["y"])]
    proto = model(nodes, [value("x", [3, 1, 1] if axes != [-1] else [3, 2, 1])], ["y"], stored)
    keeps_the_answer(proto, {"x": floats(*(3, 1, 1) if axes != [-1] else (3, 2, 1))}, exact=True)


def test_a_resize_with_operands_that_are_left_out() -> None:
    nodes = [
        node("Resize", ["x", "", "scales"], ["a"], mode="nearest"),
        node("Resize", ["x", "", "", "sizes"], ["b"], mode="linear", coordinate_transformation_mode="align_corners"),
    ]
    stored = {"scales": np.array([1, 1, 2, 2], F32), "sizes": np.array([1, 2, 5, 7], I64)}
    proto = model(nodes, [value("x", [1, 2, 4, 4])], ["a", "b"], stored)
    keeps_the_answer(proto, {"x": floats(1, 2, 4, 4)})


def test_the_judge_sees_a_constant_that_is_wrong() -> None:
    proto, feeds = quantized("Add", 0.16), {"x": floats(16, 16), "y": floats(16, 16, seed=1)}
    wrong = quantized("Add", 0.17)
    assert not np.array_equal(run(proto, feeds)[0], run(wrong, feeds)[0])
