"""Nodes that no rule translates: kept with their types, or refused by name. Strings, sequences and optionals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import graphopt
from graphopt.analysis import Interpreter
from graphopt.backends.fx import emit_fx
from graphopt.errors import GraphOptError
from graphopt.frontends.onnx import operators as operators  # registers the rules
from graphopt.frontends.onnx import read_onnx
from graphopt.frontends.onnx.application import TRANSLATIONS, Application, Declined
from graphopt.ir import UnrankedType, Value
from graphopt.testing.onnx_backend import FxBackend
from tests.frontends.onnx.conformance import cases, run
from tests.frontends.onnx.models import BOOL, FLOAT, INT, agree, body, info, model, node, ops, sequence_info, stored

STRING = TensorProto.STRING
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
STRINGS = np.array(["b", "a", "c"], dtype=object)


@pytest.fixture
def untranslated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes operators such that no rule translates them."""

    def decline(*names: str) -> None:
        for name in names:

            def rule(a: Application) -> Value:
                a.emit("aten.neg", a[0])  # what a rule did before it declined leaves no trace
                raise Declined("just so")

            monkeypatch.setitem(TRANSLATIONS, ("", name), rule)

    return decline


def test_a_node_without_a_rule_stays(untranslated: Any) -> None:
    untranslated("Erf")
    nodes = [node("Neg", "x", "h"), node("Erf", "h", "y"), node("Exp", "y", "z")]
    graph = agree(model(body(nodes, [info("x", ("N", 3))], [info("z", ("N", 3))])), X)
    assert ops(graph) == ["aten.neg", "onnx.Erf", "aten.exp"]
    assert graph.nodes[1].result.type == graph.inputs[0].type and graph.nodes[1].result.name == "y"


def test_types_of_what_depends_on_data_are_new_symbols(untranslated: Any) -> None:
    untranslated("NonZero", "Unique")
    nodes = [node("NonZero", "x", "y"), node("Unique", "x", "u _ inverse")]
    outputs = [info("y", (2, None), INT), info("u", (None,)), info("inverse", (None,), INT)]
    graph = agree(model(body(nodes, [info("x", ("N", 3))], outputs)), X)
    assert [repr(v.type) for v in graph.outputs] == ["i64[2, u0]", "f32[u1]", "i64[u2]"]
    assert graph.nodes[1].attr("onnx.outputs") == (0, 2)


def test_contents_that_are_known_tell_types(untranslated: Any) -> None:
    """A constant target, and a target of dims."""
    untranslated("Reshape", "Expand")
    nodes = [
        node("Reshape", "x target", "y"),
        node("Shape", "x", "s"),
        node("Expand", "one s", "z"),
    ]
    stores = [stored("target", [-1, 6], np.int64), stored("one", [1.0])]
    graph = agree(model(body(nodes, [info("x", ("N", 3))], [info("y", ("M", 6)), info("z", ("N", 3))], *stores)), X)
    assert [repr(v.type) for v in graph.outputs] == ["f32[u0, 6]", "f32[N, 3]"]


def test_operators_of_onnx_runtime() -> None:
    nodes = [helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=1.0)]
    for shape, x in ((("N", 3), X), ((), torch.tensor(2.0))):
        graph = agree(model(body(nodes, [info("x", shape)], [info("y", shape)]), com_microsoft=1), x)
        assert ops(graph) == ["onnx.com.microsoft.QuickGelu"] and graph.outputs[0].type == graph.inputs[0].type


def test_operators_of_classic_machine_learning() -> None:
    scaler = helper.make_node(
        "Scaler", ["x"], ["y"], domain="ai.onnx.ml", scale=[2.0, 3.0, 4.0], offset=[1.0, 0.0, 0.0]
    )
    graph = agree(model(body([scaler], [info("x", ("N", 3))], [info("y", ("N", 3))]), ai_onnx_ml=1), X)
    assert ops(graph) == ["onnx.ai.onnx.ml.Scaler"]


def test_a_strange_operator_needs_a_declared_type() -> None:
    strange = helper.make_node("Foo", ["x"], ["h"], domain="my.domain", name="foo")
    graph = body([strange, node("Neg", "h", "y")], [info("x", (2,))], [info("y", (2,))])
    with pytest.raises(
        GraphOptError, match=r"cannot read node foo \(Foo\): .*output 'h' cannot be inferred; declare it"
    ):
        read_onnx(model(graph, my_domain=4))
    graph.value_info.append(info("h", (2, 5)))
    read = read_onnx(model(graph, my_domain=4))
    assert ops(read) == ["onnx.my.domain.Foo", "aten.neg"] and repr(read.outputs[0].type) == "f32[2, 5]"
    assert read.nodes[0].attr("onnx.opset") == 4


def test_a_node_whose_operands_do_not_fit_is_refused(untranslated: Any) -> None:
    untranslated("MatMul")
    source = model(body([node("MatMul", "x x", "y")], [info("x", (4, 3))], [info("y", (4, 4))]))
    with pytest.raises(
        GraphOptError, match=r"cannot read node y \(MatMul\): just so; nor can the node stay as it is: ONNX"
    ):
        read_onnx(source)


def test_a_result_of_unknown_rank_is_carried(untranslated: Any) -> None:
    untranslated("Squeeze")
    nodes = [node("Cast", "a", "axes", to=INT), node("Squeeze", "x axes", "y"), node("Exp", "y", "z")]
    source = model(body(nodes, [info("x", (1, 3)), info("a", (1,))], [info("z", (3,))]))
    graph = read_onnx(source)
    assert ops(graph) == ["aten.to.dtype", "onnx.Squeeze", "onnx.Exp"]
    assert graph.nodes[1].result.type == UnrankedType(graph.inputs[0].dtype)
    agree(source, X[:1], torch.zeros(1))


def test_an_input_of_unknown_rank() -> None:
    """Without an example, all that uses it stays; an example tells the rank."""
    source = model(body([node("Relu", "x", "h"), node("Add", "h h", "y")], [info("x")], [info("y")]))
    assert ops(agree_unranked(source)) == ["onnx.Relu", "onnx.Add"]
    compiled = graphopt.compile(source, target="fx")
    for x in (X, X[0], torch.tensor(-1.0)):
        torch.testing.assert_close(compiled(x), 2 * x.relu())
    known = graphopt.compile(source, (X,), target="fx")
    assert known.graph.inputs[0].type.rank == 2 and not known.report.opaque


def agree_unranked(source: onnx.ModelProto) -> Any:
    graph = read_onnx(source)
    for function in (Interpreter(graph).run, emit_fx(graph, flat=True)):
        torch.testing.assert_close(function(X)[0], 2 * X.relu())
    return graph


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers_are_made_dense(flat: bool) -> None:
    indices = [1, 5] if flat else [[0, 1], [1, 2]]
    sparse = helper.make_sparse_tensor(stored("w", [2.0, 3.0]), stored("at", indices, np.int64), [2, 3])
    graph = body([node("Add", "x w", "y")], [info("x", (2, 3))], [info("y", (2, 3))])
    graph.sparse_initializer.append(sparse)
    read = agree(model(graph), X[:2])
    assert read.constants["w"].constant.tensor.tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]  # type: ignore[union-attr]
    for shape, reason in (([2, 2], "outside of its shape"), ([1 << 20, 1 << 20], "not supported")):
        graph.sparse_initializer[0].dims[:] = shape
        with pytest.raises(GraphOptError, match=f"sparse tensor 'w' has .*{reason}"):
            read_onnx(model(graph))


# Strings


def test_strings_go_through() -> None:
    nodes = [
        node("StringConcat", "s suffix", "t"),
        node("Identity", "t", "u"),
        node("Equal", "u t", "same"),
        node("Gather", "t first", "f"),
    ]
    outputs = [info("u", ("N",), STRING), info("same", ("N",), BOOL), info("f", (1,), STRING)]
    suffix = helper.make_tensor("suffix", STRING, [1], [b"!"])
    source = model(body(nodes, [info("s", ("N",), STRING)], outputs, suffix, stored("first", [0], np.int64)), 20)
    graph = agree(source, STRINGS)
    assert ops(graph) == ["onnx.Constant", "onnx.StringConcat", "onnx.Equal", "onnx.Gather"]


# Sequences and optionals


def test_sequences_of_known_length_vanish() -> None:
    nodes = [
        node("SplitToSequence", "x sizes", "parts", axis=0),
        node("SequenceAt", "parts last", "p"),
        node("SequenceInsert", "parts p first", "more"),
        node("SequenceErase", "more", "fewer"),
        node("SequenceLength", "more", "n"),
        node("ConcatFromSequence", "fewer", "y", axis=0),
        node("SequenceConstruct", "p x", "both"),
        node("ConcatFromSequence", "both", "z", axis=0),
    ]
    stores = [stored("sizes", [1, 3], np.int64), stored("last", -1, np.int64), stored("first", 0, np.int64)]
    outputs = [info("y", ("M", 3)), info("n", (), INT), info("z", ("K", 3))]
    graph = agree(model(body(nodes, [info("x", (4, 3))], outputs, *stores)), X)
    assert not any(name.startswith("onnx.") for name in ops(graph))


def test_a_sequence_that_is_returned_is_made() -> None:
    nodes = [node("Neg", "x", "h"), node("SequenceConstruct", "h x", "s"), node("SequenceEmpty", "", "e", dtype=INT)]
    outputs = [sequence_info("s"), sequence_info("e", dtype=INT)]
    graph = agree(model(body(nodes, [info("x", ("N", 3))], outputs)), X)
    assert ops(graph) == ["aten.neg", "onnx.SequenceConstruct", "onnx.SequenceEmpty"]
    assert [repr(v.type) for v in graph.outputs] == ["seq<f32[N, 3]>", "seq<i64[*]>"]


def test_sequences_as_inputs() -> None:
    nodes = [node("SequenceAt", "s i", "x"), node("Neg", "x", "y"), node("SequenceLength", "s", "n")]
    source = model(
        body(nodes, [sequence_info("s", (None, 3)), info("i", (), INT)], [info("y", ("M", 3)), info("n", (), INT)])
    )
    graph = agree(source, [X, X[:2]], torch.tensor(1))
    assert ops(graph) == ["onnx.SequenceAt", "aten.neg", "onnx.SequenceLength"]
    first, second = graph.inputs[0].type, graph.nodes[0].result.type
    assert set(first.element.symbols).isdisjoint(second.symbols)  # type: ignore[union-attr]


def optional_info(name: str, shape: Any) -> onnx.ValueInfoProto:
    type_ = helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, shape))
    return helper.make_value_info(name, type_)


def test_optionals_of_known_structure_vanish() -> None:
    nodes = [node("Optional", "x", "o"), node("OptionalHasElement", "o", "c"), node("OptionalGetElement", "o", "y")]
    graph = agree(model(body(nodes, [info("x", (4, 3))], [info("c", (), BOOL), info("y", (4, 3))])), X)
    assert ops(graph) == []


@pytest.mark.parametrize("given", [X, None])
def test_an_optional_input_decides_at_run_time(given: Any) -> None:
    branches = {
        "then_branch": body([node("OptionalGetElement", "o", "e"), node("Neg", "e", "r")], [], [info("r")]),
        "else_branch": body([node("Identity", "z", "r")], [], [info("r")]),
    }
    nodes = [node("OptionalHasElement", "o", "c"), node("If", "c", "y", **branches)]
    source = model(body(nodes, [optional_info("o", (4, 3)), info("z", (4, 3))], [info("y", (4, 3))]))
    graph = read_onnx(source)
    want = torch.ones(4, 3) if given is None else -X
    for function in (Interpreter(graph).run, emit_fx(graph, flat=True)):
        torch.testing.assert_close(function(given, torch.ones(4, 3))[0], want)


def test_optional_outputs() -> None:
    nodes = [node("Optional", "x", "o"), node("Optional", "", "none", type=helper.make_tensor_type_proto(FLOAT, [2]))]
    source = model(body(nodes, [info("x", (4, 3))], [optional_info("o", (4, 3)), optional_info("none", (2,))]))
    graph = read_onnx(source)
    assert ops(graph) == ["onnx.Optional", "onnx.Optional"]
    for function in (Interpreter(graph).run, emit_fx(graph, flat=True)):
        there, absent = function(X)
        assert torch.equal(there, X) and absent is None


# The whole way


def test_what_follows_an_opaque_node_is_trained(untranslated: Any) -> None:
    """The weights of the node itself have no gradient."""
    untranslated("Conv")
    nodes = [node("Conv", "x k", "h"), node("MatMul", "h w", "y")]
    stores = [stored("k", np.ones((2, 1, 1))), stored("w", np.ones((3, 2)))]
    graph = read_onnx(model(body(nodes, [info("x", (1, 1, 3))], [info("y", (1, 2, 2))], *stores)))
    module = emit_fx(graph)
    module(torch.rand(1, 1, 3)).sum().backward()
    assert module.w.grad is not None and not module.k.requires_grad


@pytest.mark.filterwarnings("ignore")
def test_every_operator_may_stay_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of the ONNX project's node tests, without any rule."""
    monkeypatch.setattr(graphopt.frontends.onnx.reader, "TRANSLATIONS", {})
    monkeypatch.setattr(graphopt.frontends.onnx.reader, "schema_function", lambda *_: None)
    odd = (
        "dropout",
        "dft",
        "mvn",
        "maxunpool",
        "align_corners",
        "stft",
        "qk_matmul_bias",
    )  # ONNX Runtime's own answers
    chosen = [case for case in cases("node") if not any(word in case.name for word in odd)][::16]
    outcomes = [run(case, FxBackend) for case in chosen]
    assert {o.name: o.reason for o in outcomes if not o.passed} == {}
    assert sum(bool(o.opaque) for o in outcomes) > 0.95 * len(outcomes)


def test_compiled_models_report_them(untranslated: Any, tmp_path: Any) -> None:
    untranslated("Erf", "Atan")
    nodes = [
        node("Neg", "x", "h"),
        node("Erf", "h", "a"),
        node("Atan", "a", "b"),
        node("Erf", "b", "c"),
        node("Exp", "c", "y"),
    ]
    path = tmp_path / "model.onnx"
    onnx.save(model(body(nodes, [info("x", ("N", 3))], [info("y", ("N", 3))])), path)
    want = torch.exp(torch.erf(torch.atan(torch.erf(-X))))
    for target in ("fx", "cpu", "onnxruntime"):
        compiled = graphopt.compile(path, (X,), target=target)
        torch.testing.assert_close(compiled(X), want)
        assert "opaque: 3 nodes: Erf ×2, Atan" in str(compiled.report)
        assert compiled.report.to_dict()["opaque"] == {"onnx.Erf": 2, "onnx.Atan": 1}
    compiled.save(tmp_path / "saved")
    torch.testing.assert_close(graphopt.load(tmp_path / "saved")(X), want)


@pytest.mark.parametrize("target", ["fx", "cpu", "onnxruntime", "onnx"])
def test_models_of_strings_sequences_and_optionals_are_compiled(target: str) -> None:
    nodes = [
        node("StringConcat", "s suffix", "t"),
        node("SequenceInsert", "q x", "q2"),
        node("SequenceAt", "q2 last", "e"),
        node("Neg", "e", "y"),
        node("OptionalHasElement", "o", "c"),
    ]
    inputs = [info("s", ("N",), STRING), sequence_info("q", (None, 3)), info("x", ("K", 3)), optional_info("o", (2,))]
    outputs = [info("t", ("N",), STRING), sequence_info("q2", (None, 3)), info("y", ("L", 3)), info("c", (), BOOL)]
    suffix = helper.make_tensor("suffix", STRING, [1], [b"!"])
    source = model(body(nodes, inputs, outputs, suffix, stored("last", -1, np.int64)), 20)
    compiled = graphopt.compile(source, (STRINGS, [X, X], X[:1], None), target=target)
    for given, there in (((STRINGS, [X, X], X[:1], None), False), ((STRINGS[:2], [], X[:2], torch.ones(2)), True)):
        strings, longer, y, c = compiled(*given)
        assert strings.tolist() == [f"{s}!" for s in given[0]]
        assert len(longer) == len(given[1]) + 1 and torch.equal(y, -given[2]) and bool(c) is there
