"""Clones, structural comparison, order, the networkx view, type inference and its memo."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from graphopt.errors import TypeInferenceError, VerificationError
from graphopt.ir import (
    Attributes,
    Call,
    Constant,
    ConstantKind,
    DType,
    Graph,
    Node,
    Op,
    Param,
    ParamKind,
    ScalarKind,
    ScalarType,
    TensorType,
    Value,
    bind,
    complete,
    difference,
    infer_node,
    infer_types,
    structurally_equal,
    symbol,
    to_networkx,
    verify,
    walk,
)
from graphopt.ops import get_op, parse
from tests.ir.random_graphs import graphs

F32 = TensorType(DType.F32, (2, 3))


def chain(length: int) -> Graph:
    """Cheap elementwise and transposing nodes, one after the other."""
    graph = Graph()
    value = graph.add_input("x", TensorType(DType.F32, (symbol("n"), 8)))
    relu, transpose = get_op("aten.relu"), get_op("aten.transpose.int")
    for number in range(length):
        op, args = (relu, ()) if number % 3 else (transpose, (0, 1))
        operands, attributes = bind(op, (value, *args), {})
        node = Node(op, operands, attributes, infer_types(op, operands, attributes))
        value = graph.append(node).result
    graph.set_outputs([value])
    return graph


def calls_made(function: Callable[[], Any]) -> int:
    """How many function calls a function makes, built-in ones included: a measure of work that no load disturbs."""
    count = 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    function()  # warm caches
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("work", [Graph.clone, verify, str, lambda g: list(map(infer_node, g)), to_networkx])
def test_work_is_linear_in_nodes(work: Callable[[Graph], Any]) -> None:
    small, large = chain(100), chain(800)
    at_small, at_large = (calls_made(lambda g=g: work(g)) for g in (small, large))  # type: ignore[misc]
    assert at_large <= 8.5 * at_small


def test_parsing_is_linear_in_nodes() -> None:
    small, large = str(chain(100)), str(chain(800))
    assert calls_made(lambda: parse(large)) <= 8.5 * calls_made(lambda: parse(small))


def test_insertion_in_the_middle_renumbers_once() -> None:
    graph = chain(50)
    first, last = graph.nodes[0], graph.nodes[-1]
    graph.insert_after(Node(get_op("aten.relu"), [first.result], result_types=[first.result.type]), first)
    assert calls_made(lambda: graph.is_before(first, last)) < 10


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_clone_is_equal_and_shares_what_is_frozen(graph: Graph) -> None:
    text = str(graph)
    copy = graph.clone()
    assert difference(graph, copy) is None and str(copy) == text
    for name, value in graph.constants.items():
        other = copy.constants[name]
        assert other is not value and other.constant is value.constant
    for old, new in zip(walk(graph), walk(copy)):
        assert old is not new
        assert old.attributes is new.attributes and old.location is new.location
        assert all(a.type is b.type and a is not b for a, b in zip(old.results, new.results))
    for node in copy.nodes[::-1]:
        for result in node.results:
            if copy.inputs:
                result.replace_all_uses_with(copy.inputs[0])
    assert str(graph) == text


def test_clone_leaves_the_collector_as_it_was() -> None:
    graph = chain(3)
    graph.clone()
    assert gc.isenabled()
    gc.disable()
    try:
        graph.clone()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_clone_names_new_sizes_as_the_original_would() -> None:
    text = "input %x: f32[4]\n%a = nonzero(%x)\nreturn %a"
    copy = parse(text).clone()
    op = get_op("aten.nonzero")
    node = copy.append(Node(op, [copy.inputs[0]], result_types=infer_types(op, copy.inputs, Attributes())))
    assert repr(node.result.type) == "i64[u1, 1]"
    verify(copy)


# Comparison


def changed(change: Callable[[Graph], None]) -> str | None:
    graph = parse("""
    input %x: f32[2, 3]
    parameter %w: f32[3]
    %a = add.Tensor(%x, %w) @ "m.py":1
    %b = relu(%a) @ "m.py":2
    return %b
    update "w" = %w""")
    other = graph.clone()
    change(other)
    assert structurally_equal(graph, other) is (difference(graph, other) is None)
    return difference(graph, other)


def with_name(graph: Graph) -> None:
    graph.nodes[0].result.name = "other"


def with_input_name(graph: Graph) -> None:
    graph.inputs[0].name = "y"


def with_alpha(graph: Graph) -> None:
    graph.nodes[0].attributes = graph.nodes[0].attributes.updated(alpha=1.0)


def with_type(graph: Graph) -> None:
    graph.nodes[1].result.type = F32.with_dtype(DType.F64)


def with_operands(graph: Graph) -> None:
    graph.nodes[1].set_operand(0, graph.inputs[0])


def with_operator(graph: Graph) -> None:
    graph.nodes[1].op = get_op("aten.neg")


def with_outputs(graph: Graph) -> None:
    graph.set_outputs([graph.nodes[0].result], graph.updates)


def without_update(graph: Graph) -> None:
    graph.set_outputs(graph.outputs)


def with_one_more_node(graph: Graph) -> None:
    graph.append(Node(get_op("aten.relu"), [graph.inputs[0]], result_types=[F32]))


def with_location(graph: Graph) -> None:
    graph.nodes[0].location = graph.nodes[1].location


def with_values(graph: Graph) -> None:
    old = graph.constants["w"].constant
    assert old is not None
    graph.constants["w"].constant = Constant(old.tensor + 1, old.kind, old.names, old.requires_grad, old.persistent)


def with_equal_values(graph: Graph) -> None:
    old = graph.constants["w"].constant
    assert old is not None
    graph.constants["w"].constant = Constant(old.tensor.clone(), old.kind, old.names)


def with_kind(graph: Graph) -> None:
    old = graph.constants["w"].constant
    assert old is not None
    graph.constants["w"].constant = Constant(old.tensor, ConstantKind.BUFFER, old.names)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (with_name, None),
        (with_equal_values, None),
        (with_input_name, "inputs differ"),
        (with_alpha, "attributes differ"),
        (with_type, "result types differ"),
        (with_operands, "operands differ"),
        (with_operator, "operators differ"),
        (with_outputs, "outputs differ"),
        (without_update, "outputs differ"),
        (with_one_more_node, "2 nodes and 3 nodes"),
        (with_location, "locations differ"),
        (with_values, "constant 'w' differs"),
        (with_kind, "constant 'w' differs"),
    ],
)
def test_comparison(change: Callable[[Graph], None], found: str | None) -> None:
    difference_found = changed(change)
    assert difference_found is None if found is None else found in str(difference_found)


# The networkx view


def test_networkx_view() -> None:
    graph = parse("""
    input %x: f32[2, 3]
    input %unused: f32[2]
    parameter %w: f32[3]
    %a = add.Tensor(%x, %w)
    %b, %c = max.dim(%a) {dim=0}
    %d = mul.Tensor(%a, %a)
    return %b, %d""")
    view = to_networkx(graph)
    add, maximum, mul = graph.nodes
    assert set(view.nodes) == {*graph.inputs, graph.constants["w"], add, maximum, mul, graph.terminator}
    assert nx.is_directed_acyclic_graph(view)
    edges = [(u, v, data["value"], data["index"]) for u, v, data in view.edges(data=True)]
    assert (add, mul, add.result, 0) in edges and (add, mul, add.result, 1) in edges
    assert (maximum, graph.terminator, maximum.results[0], 0) in edges
    assert len(edges) == sum(len(list(node.inputs)) for node in (*graph, graph.terminator))
    assert list(nx.topological_sort(view))[-1] is graph.terminator


# Inference


def counting_op(calls: list[Call]) -> Op:
    def infer(call: Call) -> list[Any]:
        calls.append(call)
        return [call.operand_types[0]]

    params = (Param("x", ParamKind.OPERAND), Param("a", ParamKind.ATTRIBUTE, "Scalar", None))
    return Op("test.counted", params, infer=infer)


def test_memo_tells_numbers_of_other_types_apart() -> None:
    calls: list[Call] = []
    op = counting_op(calls)
    value = Value(F32, "x")
    numbers = [1, True, 1.0, complex(1), 0, 0.0, -0.0, False, None, "1", (1,), (True,), (1.0,), DType.F32]
    for number in [*numbers, *numbers]:
        infer_types(op, [value], Attributes({"a": number}))
    assert len(calls) == len(numbers)
    infer_types(op, [Value(F32, "another")], Attributes({"a": 1}))
    assert len(calls) == len(numbers)
    infer_types(op, [Value(TensorType(DType.F32, (2, symbol("n"))))], Attributes({"a": 1}))
    infer_types(op, [Value(TensorType(DType.F32, (2, symbol("n", 1))))], Attributes({"a": 1}))
    assert len(calls) == len(numbers) + 2


def test_memo_knows_the_default_dtype() -> None:
    op = get_op("aten.div.Tensor")
    operands = [Value(TensorType(DType.I64, (2,)))] * 2
    assert infer_types(op, operands, Attributes())[0] == TensorType(DType.F32, (2,))
    torch.set_default_dtype(torch.float64)
    try:
        assert infer_types(op, operands, Attributes())[0] == TensorType(DType.F64, (2,))
    finally:
        torch.set_default_dtype(torch.float32)


def test_inference_errors_are_one_sentence() -> None:
    op = get_op("aten.cat")
    operands = [Value(F32), Value(F32.with_shape((2, 4)))]
    with pytest.raises(TypeInferenceError) as caught:
        infer_types(op, operands, complete(op, {"dim": 0}))
    assert str(caught.value) == (
        "aten.cat cannot take (f32[2, 3], f32[2, 4]): the sizes differ in another dim: 3 and 4"
    )
    with pytest.raises(TypeInferenceError) as caught:
        infer_types(get_op("aten.view"), [Value(F32)], Attributes({"size": (7,)}))
    assert str(caught.value) == "aten.view cannot take (f32[2, 3]) with size=(7,): 6 elements do not fit (7)"


def test_infer_node_keeps_names_of_new_sizes() -> None:
    graph = parse("input %x: f32[4]\n%a = nonzero(%x)\n%b = nonzero(%x)\nreturn %b")
    a, b = graph.nodes
    assert infer_node(b) == (b.result.type,) and infer_node(a) != infer_node(b)


def test_new_sizes_of_a_linked_node_are_named() -> None:
    graph = parse("input %x: f32[4]\ninput %i: i64[2]\ninput %m: bool[4]\n%a = index.Tensor(%x, %i)\nreturn %a")
    (node,) = graph
    node.set_operand(1, graph.inputs[2])
    assert repr(infer_node(node)) == "(f32[u0],)"


def test_scalars_from_data_are_symbols() -> None:
    graph = parse("input %x: i64[]\n%a = item(%x)\nreturn %a")
    type_ = graph.nodes[0].result.type
    assert isinstance(type_, ScalarType) and type_.kind is ScalarKind.INT and str(type_.value) == "u0"
    verify(graph)


# Binding arguments


def test_binding_normalizes() -> None:
    conv = get_op("aten.conv2d")
    x, w = Value(F32), Value(F32)
    operands, attributes = bind(conv, (x, w), {"stride": 2, "padding": [1, 0]})
    assert operands == [x, w, None]
    assert attributes["stride"] == (2, 2) and attributes["padding"] == (1, 0) and attributes["groups"] == 1
    node = Node(conv, operands, attributes)
    assert node.operand("bias") is None and node.operand("weight") is w and node.attr("dilation") == (1, 1)
    with pytest.raises(KeyError, match="has no attribute 'kernel'"):
        node.attr("kernel")


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, 2, 3, 4), {}, "aten.add.Tensor takes 3 arguments, got 4"),
        (("x",), {}, "aten.add.Tensor needs operand 'other'"),
        (("x", "y"), {"other": "z"}, "aten.add.Tensor got two values for argument 'other'"),
    ],
)
def test_binding_errors(args: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        bind(get_op("aten.add.Tensor"), args, kwargs)


def test_constants_get_names_of_their_own() -> None:
    graph = Graph()
    for _ in range(3):
        graph.add_constant("c", TensorType(DType.F32, ()), Constant(torch.zeros(())))
    assert list(graph.constants) == ["c", "c_1", "c_2"]
    copy = graph.clone()
    assert copy.add_constant("c", TensorType(DType.F32, ()), Constant(torch.zeros(()))).name == "c_3"


def test_changed_tensors_are_noticed() -> None:
    tensor = torch.zeros(2)
    constant = Constant(tensor, version=tensor._version)
    assert not constant.changed
    tensor.add_(1)
    assert constant.changed
    assert not Constant(tensor).changed
