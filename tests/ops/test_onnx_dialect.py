"""The onnx dialect: names, attributes, evaluation, and what graphs of it survive."""

from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import DType, Graph, OptionalType, SequenceType, TensorType, Trait, verify
from graphopt.ops import parse, registry
from graphopt.ops.effects import is_pure, is_removable
from graphopt.ops.onnx_attributes import attribute_from_proto, attribute_to_proto
from graphopt.ops.onnx_dialect import domain_and_type, op_name
from graphopt.ops.onnx_nested import captured_names, rename, unique
from graphopt.ops.onnx_values import from_numpy, kind_from_text, kind_text, to_numpy
from graphopt.serialization import graph_to_bytes, load_graph

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@given(st.text("abc.%-_ é", max_size=12).filter(lambda d: d != "ai.onnx"), st.text("ABc.%2E_", min_size=1, max_size=8))
def test_names_tell_domain_and_operator(domain: str, op_type: str) -> None:
    assert domain_and_type(op_name(domain, op_type)) == (domain, op_type)


def test_the_long_name_of_the_standard_domain_is_the_short_one() -> None:
    assert op_name("ai.onnx", "Relu") == op_name("", "Relu") == "onnx.Relu"


@st.composite
def attribute_protos(draw: Any) -> AttributeProto:
    float32 = st.floats(width=32, allow_nan=False)
    value = draw(
        st.integers(-(2**63), 2**63 - 1)
        | float32
        | WORDS
        | st.binary(max_size=4)
        | st.lists(st.integers(-9, 9), min_size=1, max_size=3)
        | st.lists(float32, min_size=1, max_size=3)
        | st.lists(WORDS, min_size=1, max_size=3)
        | st.lists(st.binary(max_size=3), min_size=1, max_size=2)
        | st.builds(lambda n: helper.make_tensor("t", TensorProto.FLOAT, [n], [1.5] * n), st.integers(0, 3))
        | st.just(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], []))
        | st.just(helper.make_tensor_type_proto(TensorProto.INT8, [1, None]))
    )
    return helper.make_attribute("name", value)


@given(attribute_protos())
def test_attributes_come_back_from_the_ir(proto: AttributeProto) -> None:
    assert attribute_to_proto("name", attribute_from_proto(proto)) == proto


@pytest.mark.parametrize("kind", [AttributeProto.INTS, AttributeProto.FLOATS, AttributeProto.STRINGS])
def test_lists_without_elements_keep_their_kind(kind: int) -> None:
    proto = AttributeProto(name="axes", type=kind)
    assert attribute_to_proto("axes", attribute_from_proto(proto)) == proto


@settings(max_examples=30, deadline=None)
@given(st.lists(attribute_protos(), max_size=3), st.sampled_from(["", "com.microsoft", "my-domain"]))
def test_nodes_survive_text_clone_and_file(protos: list[AttributeProto], domain: str) -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    graph.set_outputs([x])
    text = str(graph)
    attributes = {f"a{i}": attribute_from_proto(proto) for i, proto in enumerate(protos)}
    from graphopt.ir import Node, complete

    op = registry.get(op_name(domain, "Foo"))
    node = Node(op, [x, None], complete(op, {"onnx.opset": 3, "onnx.kinds": ("seq<f32>", ""), **attributes}), [x.type])
    graph.append(node)
    graph.set_outputs([node.result])
    verify(graph)
    text = str(graph)
    assert str(parse(text)) == str(graph.clone()) == text
    again, _ = load_graph(io.BytesIO(graph_to_bytes(graph)))
    assert str(again) == text
    (copy,) = again.nodes
    assert copy.attributes == node.attributes


def run(text: str, *inputs: Any, float64: bool = False) -> list[Any]:
    graph = parse(text)
    verify(graph)
    return Interpreter(graph, float64=float64).run(*inputs)


def test_nodes_are_run_by_onnx_runtime() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    text = "input %x: f32[2, 2]\n%y: f32[] = onnx.Det(%x) {onnx.opset=11}\nreturn %y"
    assert run(text, x)[0] == pytest.approx(-1.0)
    text = "input %x: f32[2]\n%y: f32[2] = onnx.com.microsoft.QuickGelu(%x) {onnx.opset=1, alpha=1.0}\nreturn %y"
    torch.testing.assert_close(
        run(text, torch.tensor([1.0, -2.0]))[0], torch.nn.functional.silu(torch.tensor([1.0, -2]))
    )


def test_what_onnx_runtime_lacks_is_run_by_the_reference_evaluator() -> None:
    """It has no kernel of Erf for float64, where validation runs."""
    text = "input %x: f32[3]\n%y: f32[3] = onnx.Erf(%x) {onnx.opset=13}\nreturn %y"
    x = torch.tensor([0.1, -0.7, 2.0])
    (wide,) = run(text, x, float64=True)
    assert wide.dtype is torch.float64
    torch.testing.assert_close(wide, torch.erf(x.double()))


def test_a_node_that_nothing_runs_is_named() -> None:
    with pytest.raises(
        GraphOptError, match=r"onnx\.strange\.Foo cannot be run: ONNX Runtime: .*; the reference evaluator: [^;]*$"
    ):
        run("input %x: f32[2]\n%y: f32[2] = onnx.strange.Foo(%x) {onnx.opset=1}\nreturn %y", torch.zeros(2))


def test_sequences_optionals_and_strings_are_python_values() -> None:
    text = """
    input %xs: seq<f32[N]>
    input %o: optional<f32[2]>
    input %s: string[2]
    %n: i64[] = onnx.SequenceLength(%xs) {onnx.opset=18, onnx.kinds=("seq<f32>",)}
    %there: bool[] = onnx.OptionalHasElement(%o) {onnx.opset=18, onnx.kinds=("optional<f32>",)}
    %t: string[2] = onnx.StringConcat(%s, %s) {onnx.opset=20}
    return %n, %there, %t, %xs"""
    strings = np.array(["a", "é"], dtype=object)
    n, there, doubled, xs = run(text, [], None, strings)
    assert (n, there, doubled.tolist(), xs) == (0, False, ["aa", "éé"], [])
    n, there, *_ = run(text, [torch.ones(1), torch.ones(2)], torch.ones(2), strings)
    assert (n, there) == (2, True)


def test_random_nodes_follow_torch_and_are_no_function() -> None:
    text = "%y: f32[4] = onnx.RandomNormal() {onnx.opset=22, shape=(4,)}\nreturn %y"
    graph = parse(text)
    (node,) = graph.nodes
    assert Trait.RANDOM in node.op.traits and not is_pure(node) and is_removable(node)
    torch.manual_seed(0)
    first = Interpreter(graph).run()[0]
    second = Interpreter(graph).run()[0]
    torch.manual_seed(0)
    assert torch.equal(Interpreter(graph).run()[0], first) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "pure"), [("onnx.Det", True), ("onnx.com.microsoft.Gelu", True), ("onnx.strange.Foo", False)]
)
def test_nothing_is_assumed_of_operators_without_a_schema(name: str, pure: bool) -> None:
    (node,) = parse(f"input %x: f32[2]\n%y: f32[2] = {name}(%x) {{onnx.opset=1}}\nreturn %y").nodes
    assert is_pure(node) is pure and is_removable(node)


# Values


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 2), np.float32),
        np.array([1, 2], np.ulonglong),
        np.arange(6).reshape(2, 3)[:, ::2],
        np.array([True]),
        np.array([1 + 2j], np.complex64),
        np.array([1.5, 2], ml_dtypes.bfloat16),
        np.array([1.5, 2], ml_dtypes.float8_e5m2),
        np.array(["a", ""], object),
    ],
)
def test_arrays_come_back(array: np.ndarray) -> None:
    again = to_numpy(from_numpy(array))
    assert again.shape == array.shape and (again == array).all() and again.dtype == array.dtype


def test_narrow_elements_need_their_type() -> None:
    array = np.array([1, -3], ml_dtypes.int4)
    stored = from_numpy(array)
    assert stored.dtype is DType.I4.storage
    again = to_numpy(stored, TensorType(DType.I4, (2,)))
    assert again.dtype == array.dtype and (again == array).all()


@pytest.mark.parametrize(
    "type_",
    [
        TensorType(DType.STRING, ()),
        SequenceType(TensorType(DType.I4, ())),
        OptionalType(SequenceType(TensorType(DType.F32, ()))),
    ],
)
def test_kinds_read_back(type_: Any) -> None:
    assert kind_from_text(kind_text(type_)) == type_


# Nested graphs


def nested_node() -> onnx.NodeProto:
    """If with a branch that uses `x` from outside, and holds another If that uses `y` and shadows `t`."""
    inner = helper.make_graph(
        [helper.make_node("Add", ["t", "y"], ["t2"])], "inner", [], [helper.make_empty_tensor_value_info("t2")]
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["t"]),
        helper.make_node("If", ["c"], ["r"], then_branch=inner, else_branch=inner),
    ]
    outer = helper.make_graph(nodes, "outer", [], [helper.make_empty_tensor_value_info("r")])
    return helper.make_node("If", ["c"], ["out"], then_branch=outer, else_branch=outer)


def test_captured_names_are_those_that_no_graph_defines() -> None:
    assert captured_names(nested_node()) == ["x", "c", "y"]


def test_renaming_keeps_structure() -> None:
    node = nested_node()
    rename(node, {"x": "X", "c": "C", "y": "Y"}, unique({"t"}))
    assert captured_names(node) == ["X", "C", "Y"]
    first, second = node.attribute[0].g, node.attribute[1].g
    assert [first.node[0].output[0], second.node[0].output[0]] == ["t_1", "t_2"]
    assert first.output[0].name == first.node[1].output[0]
    assert node.input[0] == "c"  # the caller's
