"""Opaque nodes in FX modules: grouped into sessions, copied, pickled, and without gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis import Interpreter
from graphopt.backends.fx import emit_fx
from graphopt.backends.fx.engines import EagerEngine, InductorEngine
from graphopt.backends.fx.opaque import OpaqueNodes
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, TensorType, complete
from graphopt.ops import parse, registry
from graphopt.testing import assert_equivalent, graphs
from graphopt.testing.engines import Unsupported, fx_function, onnx_function

TEXT = """
    input %x: f32[N, 3, 3]
    parameter %w: f32[3, 3] requires_grad
    %y = aten.matmul(%x, %w)
    %d: f32[N] = onnx.Det(%y) {onnx.opset=20}
    %e: f32[N] = onnx.Sin(%d) {onnx.opset=20}
    %f = aten.relu(%d)
    %g: f32[N] = onnx.com.microsoft.Gelu(%f) {onnx.opset=1}
    %h = aten.add.Tensor(%e, %g)
    return %h, %y"""


def sessions(module: torch.nn.Module) -> list[str]:
    return [m.operators for m in module.modules() if isinstance(m, OpaqueNodes)]


def test_neighbours_share_a_session() -> None:
    graph = parse(TEXT)
    module = emit_fx(graph)
    assert sessions(module) == ["Det, Sin", "com.microsoft.Gelu"]
    assert_equivalent(graph, module)


def test_a_group_is_convex() -> None:
    """%c needs %b, which needs %a: no session may hold %a and %c without %b."""
    graph = parse("""
        input %x: f32[4]
        %a: f32[4] = onnx.Sin(%x) {onnx.opset=20}
        %k: f32[4] = onnx.Cos(%x) {onnx.opset=20}
        %b = aten.neg(%a)
        %c: f32[4] = onnx.Mul(%b, %a) {onnx.opset=20}
        %d: f32[4] = onnx.Add(%c, %k) {onnx.opset=20}
        return %d""")
    assert sessions(emit_fx(graph)) == ["Sin, Cos", "Mul, Add"]
    assert_equivalent(graph, emit_fx(graph))


def test_versions_of_one_domain_are_kept_apart() -> None:
    """Softmax over one dim or over all from an axis on."""
    graph = parse("""
        input %x: f32[2, 2, 2]
        %a: f32[2, 2, 2] = onnx.Softmax(%x) {onnx.opset=11, axis=1}
        %b: f32[2, 2, 2] = onnx.Softmax(%a) {onnx.opset=13, axis=1}
        return %b""")
    assert sessions(emit_fx(graph)) == ["Softmax", "Softmax"]
    x = torch.randn(2, 2, 2)
    want = x.reshape(2, 4).softmax(1).reshape(2, 2, 2).softmax(1)
    torch.testing.assert_close(emit_fx(graph)(x), want)


def test_what_no_library_runs_alone_is_run_node_by_node() -> None:
    """ONNX Runtime has no kernel of Erf for f64, the reference evaluator none of QuickGelu."""
    graph = parse("""
        input %x: f64[3]
        input %z: f32[3]
        %a: f64[3] = onnx.Erf(%x) {onnx.opset=13}
        %b: f32[3] = onnx.Cast(%a) {onnx.opset=13, to=1}
        %c: f32[3] = onnx.com.microsoft.QuickGelu(%b) {onnx.opset=1, alpha=1.0}
        return %c""")
    x = torch.randn(3, dtype=torch.float64)
    module = emit_fx(graph)
    assert len(sessions(module)) == 1
    torch.testing.assert_close(module(x, x.float()), torch.nn.functional.silu(torch.erf(x).float()))


def test_copies_and_pickles_run() -> None:
    module, x = emit_fx(parse(TEXT)), torch.randn(2, 3, 3)
    want = module(x)[0]
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(x)[0], want)


def test_asking_for_a_gradient_through_them_raises() -> None:
    module, x = emit_fx(parse(TEXT)), torch.randn(2, 3, 3)
    module(x)[1].sum().backward()
    assert module.w.grad is not None
    with pytest.raises(GraphOptError, match="no gradient goes through"):
        module(x)[0].sum().backward()


def test_captured_values_small_constants_and_sizes() -> None:
    from onnx import helper

    from graphopt.ops.onnx_attributes import attribute_from_proto

    then = helper.make_graph(
        [helper.make_node("Neg", ["v"], ["r"])], "then", [], [helper.make_empty_tensor_value_info("r")]
    )
    other = helper.make_graph(
        [helper.make_node("Exp", ["v"], ["r"])], "else", [], [helper.make_empty_tensor_value_info("r")]
    )
    graph = parse(
        """
        input %c: bool[]
        input %x: f32[N]
        constant %two: f32[1] = (2.0,)
        %nz: i64[1, u0] = onnx.NonZero(%x) {onnx.opset=13}
        %y: f32[N] = onnx.Mul(%x, %two) {onnx.opset=13}
        %z = aten.full() {size=(u0,), fill_value=1.0}
        return %y, %z"""
    )
    y = graph.outputs[0]
    attributes = {
        "onnx.opset": 13,
        "onnx.captured": ("v",),
        "then_branch": attribute_from_proto(helper.make_attribute("then_branch", then)),
        "else_branch": attribute_from_proto(helper.make_attribute("else_branch", other)),
    }
    op = registry.get("onnx.If")
    node = graph.append(Node(op, [graph.inputs[0], y], complete(op, attributes), [y.type]))
    graph.set_outputs([node.result, graph.outputs[1]])
    x = torch.tensor([0.5, 0.0, -1.0])
    for run in (Interpreter(graph).run, emit_fx(graph, flat=True), onnx_function(graph)):
        yes, ones = run(torch.tensor(True), x)
        no, _ = run(torch.tensor(False), x)
        torch.testing.assert_close(yes, -2 * x)
        torch.testing.assert_close(no, torch.exp(2 * x))
        assert ones.tolist() == [1.0, 1.0]


def test_engines() -> None:
    graph, x = parse(TEXT), torch.randn(2, 3, 3)
    assert EagerEngine().unsupported(graph) is None
    torch.testing.assert_close(EagerEngine().load(graph).run([x])[0], emit_fx(graph)(x)[0].detach())
    assert "runs outside of PyTorch" in (InductorEngine().unsupported(graph) or "")


def with_opaque_nodes(graph: Graph, choose: st.DataObject) -> Graph:
    """The graph with `onnx.Identity` before some uses, and functions of some values as outputs more."""
    found = graph.clone()
    extra = []
    for node in found.nodes:
        for value in node.results:
            if not isinstance(value.type, TensorType) or value.type.dtype.value != "f32":
                continue
            name = choose.draw(st.sampled_from([None, None, "Identity", "Shrink", "ThresholdedRelu"]))
            if name is None:
                continue
            op, uses = registry.get(f"onnx.{name}"), value.uses
            made = Node(op, [value], complete(op, {"onnx.opset": 18}), [value.type])
            found.insert_after(made, node)
            if name == "Identity":
                for use in uses:
                    use.node.set_operand(use.index, made.result)
            else:
                extra.append(made.result)
    found.set_outputs([*found.outputs, *extra], found.updates)
    return found


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(graphs(), st.data())
def test_random_graphs_with_opaque_nodes_compute_the_same_everywhere(graph: Graph, choose: st.DataObject) -> None:
    graph = with_opaque_nodes(graph, choose)
    assert_equivalent(graph, fx_function(graph))
    try:
        run = onnx_function(graph)
    except Unsupported:
        return
    assert_equivalent(graph, run)
