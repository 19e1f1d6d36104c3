"""Functions of a model and of the standard are inlined: names, attributes, captured values, and bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import FunctionProto, TensorProto, helper, parser

from graphopt.analysis import Interpreter
from graphopt.errors import CaptureError
from graphopt.frontends.onnx import read_onnx


def model(text: str, functions: str = "") -> onnx.ModelProto:
    """A model of one input x and one output y."""
    header = '<ir_version: 10, opset_import: ["" : 18, "own" : 1]>\n'
    return parser.parse_model(f"{header}main (float[N, 4] x) => (float[N, M] y) {{ {text} }}\n{functions}")


def expect(proto: onnx.ModelProto, rows: int = 3) -> Any:
    """Hold a model to ONNX Runtime, which inlines functions, too; return its graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
    graph = read_onnx(proto)
    wanted = session.run(None, {"x": x})
    for got, array in zip(Interpreter(graph).run(torch.from_numpy(x)), wanted, strict=True):
        torch.testing.assert_close(got, torch.from_numpy(array), rtol=1e-5, atol=1e-6)
    return graph


OWN = '<domain: "own", opset_import: ["" : 18, "own" : 1]>\n'


def test_names_of_bodies_do_not_meet() -> None:
    body = OWN + "twice (a) => (b) { t = Add(a, a) b = Relu(t) }"
    graph = expect(model("t = own.twice(x) u = own.twice(t) y = own.twice(u)", body))
    assert len(graph) == 6
    assert graph.outputs[0].name == "y"


def test_attributes_are_those_of_the_call_or_the_default() -> None:
    body = OWN + "leaky <alpha: float = 0.5> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }"
    graph = expect(model("t = own.leaky <alpha = 0.1> (x) y = own.leaky (t)", body))
    slopes = [node.attributes["negative_slope"] for node in graph]
    assert slopes == pytest.approx([0.1, 0.5])


def test_an_attribute_that_nobody_gives_is_absent() -> None:
    body = OWN + "leaky <alpha> (a) => (b) { b = LeakyRelu <alpha: float = @alpha> (a) }"
    (node,) = expect(model("y = own.leaky (x)", body))
    assert node.attributes["negative_slope"] == pytest.approx(0.01)


def test_calls_nest_and_pass_operands_through() -> None:
    bodies = (
        OWN
        + "inner <k: int = 0> (a, b) => (c, d) { c = Identity(b) s = ReduceSum<keepdims = 1>(a) d = Sub(a, s) }\n"
        + OWN
        + "outer (a) => (b) { h = Neg(a) p, q = own.inner(a, h) b = Mul(p, q) }"
    )
    expect(model("y = own.outer(x)", bodies))


def test_operands_may_be_absent() -> None:
    body = OWN + "clip (a, low, high) => (b) { b = Clip(a, low, high) }"
    expect(model("zero = Constant <value = float {0.0}> () y = own.clip(x, zero)", body))


def test_a_function_imports_its_own_opsets() -> None:
    """In opset 12 the softmax is over all dims from `axis` on. ONNX Runtime reads the body in the model's opset."""
    body = '<domain: "own", opset_import: ["" : 12]>\n soft (a) => (b) { b = Softmax <axis = 0> (a) }'
    x = torch.randn(3, 4)
    (got,) = Interpreter(read_onnx(model("y = own.soft(x)", body))).run(x)
    torch.testing.assert_close(got, x.flatten().softmax(0).reshape(3, 4))


def test_the_rules_of_shapes_hold_within_functions() -> None:
    body = (
        OWN
        + "flat (a) => (b) { s = Shape <start = 0, end = 1> (a) m = Constant <value = int64[1] {-1}> () \
        t = Concat <axis = 0> (s, m) b = Reshape(a, t) }"
    )
    graph = expect(model("y = own.flat(x)", body))
    assert len(graph) <= 1


def test_graphs_within_bodies_capture_names_and_refer_to_attributes() -> None:
    body = (
        OWN
        + """pick <slope: float> (a) => (b) {
        zero = Constant <value = float {0.0}> ()
        k = ReduceSum <keepdims = 0> (a)
        c = Greater(k, zero)
        b = If (c) <
            then_branch = one () => (t) { h = LeakyRelu <alpha: float = @slope> (a) t = Mul(h, k) },
            else_branch = two () => (e) { h = Neg(a) e = Add(h, k) }>
    }"""
    )
    text = "t = own.pick <slope = 0.3> (x) u = Neg(t) y = own.pick <slope = 0.7> (u)"
    expect(model(text, body))
    expect(model(f"h = Neg(x) z = Identity(h) {text.replace('(x)', '(z)')}", body))


def test_functions_call_functions_within_graphs() -> None:
    bodies = (
        OWN
        + "half <by: float = 0.5> (a) => (b) { c = Constant <value_float: float = @by> () b = Mul(a, c) }\n"
        + OWN
        + """either (a) => (b) {
            k = ReduceMax <keepdims = 0> (a)
            c = IsInf(k)
            b = If (c) <then_branch = one () => (t) { t = own.half <by = 0.25> (a) },
                        else_branch = two () => (e) { e = own.half(a) }>
        }"""
    )
    expect(model("y = own.either(x)", bodies))


def test_calls_within_nodes_that_stay_as_they_are() -> None:
    bodies = (
        OWN
        + "half (a) => (b) { c = Constant <value_float: float = 0.5> () b = Mul(a, c) }\n"
        + OWN
        + "quarter (a) => (b) { h = own.half(a) b = own.half(h) }"
    )
    text = """k = ReduceMax <keepdims = 0> (x) z = Constant<value = float {0.0}>() c = Greater(k, z)
        s = If (c) <then_branch = one () => (t) { h = own.quarter(x) t = SequenceConstruct(h, x) },
                    else_branch = two () => (e) { e = SequenceConstruct(x) }>
        p = Constant<value = int64 {0}>() y = SequenceAt(s, p)"""
    assert "onnx.If" in [node.op.name for node in expect(model(text, bodies))]


def test_a_function_that_calls_itself_is_refused() -> None:
    bodies = OWN + "ping (a) => (b) { b = own.pong(a) }\n" + OWN + "pong (a) => (b) { b = own.ping(a) }"
    with pytest.raises(CaptureError, match=r"own\.ping calls itself \(own\.ping → own\.pong → own\.ping\)"):
        read_onnx(model("y = own.ping(x)", bodies))


def test_calls_that_multiply_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty functions that each call the next one twice stand for a billion nodes."""
    monkeypatch.setattr("graphopt.frontends.onnx.functions.SPARE", 1000)
    bodies = "\n".join(f"{OWN} f{i} (a) => (b) {{ t = own.f{i + 1}(a) b = own.f{i + 1}(t) }}" for i in range(30))
    bodies += f"\n{OWN} f30 (a) => (b) {{ b = Neg(a) }}"
    with pytest.raises(CaptureError, match="too many nodes"):
        read_onnx(model("y = own.f0(x)", bodies))


def test_deep_calls_are_refused() -> None:
    bodies = "\n".join(f"{OWN} f{i} (a) => (b) {{ b = own.f{i + 1}(a) }}" for i in range(100))
    bodies += f"\n{OWN} f100 (a) => (b) {{ b = Neg(a) }}"
    with pytest.raises(CaptureError, match="more than 64 deep"):
        read_onnx(model("y = own.f0(x)", bodies))


def test_calls_with_too_many_operands_are_refused() -> None:
    proto = model("y = own.one(x)", OWN + "one (a) => (b) { b = Neg(a) }")
    proto.graph.node[0].input.append("x")
    with pytest.raises(CaptureError, match="has 1 inputs, but is called with 2"):
        read_onnx(proto)


def test_two_functions_of_one_name_are_refused() -> None:
    proto = model("y = own.one(x)", OWN + "one (a) => (b) { b = Neg(a) }")
    proto.functions.append(FunctionProto.FromString(proto.functions[0].SerializeToString()))
    with pytest.raises(CaptureError, match=r"defines function own\.one twice"):
        read_onnx(proto)


def test_operators_without_a_rule_are_read_by_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.frontends.onnx.application import TRANSLATIONS

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Celu", ["x"], ["y"], alpha=0.7)
    proto = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    assert [n.op.name for n in expect(proto)] == ["aten.celu"]
    monkeypatch.delitem(TRANSLATIONS, ("", "Celu"))
    assert "aten.elu" in [n.op.name for n in expect(proto)]
