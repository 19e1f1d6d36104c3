"""Every broken invariant is caught, and the message names the node and where it came from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphopt.errors import GraphOptError, VerificationError
from graphopt.ir import (
    Attributes,
    Constant,
    DType,
    Graph,
    Location,
    Node,
    Symbol,
    TensorType,
    Use,
    Value,
    verify,
    verify_node,
    verify_nodes,
)
from graphopt.ir.dims import from_symbol
from graphopt.ops import get_op, parse

F32 = TensorType(DType.F32, (2, 3))


def sample() -> Graph:
    return parse("""
    input %x: f32[2, 3]
    parameter %w: f32[3, 3]
    %a: f32[2, 3] = aten.mm(%x, %w) @ "model.py":7 "layer" <- "some-rule"
    %b: f32[2, 3] = aten.relu(%a) @ "model.py":8 "act"
    %c: f32[2, 3] = aten.add.Tensor(%a, %b) {alpha=2} @ "model.py":9 "add"
    return %c
    update "w" = %w""")


def drop_use(graph: Graph) -> None:
    (use,) = graph.nodes[1].result.uses
    del graph.nodes[1].result._uses[use]


def stale_use(graph: Graph) -> None:
    graph.nodes[1].result._uses[Use(graph.nodes[1], 0)] = None


def use_of_an_erased_node(graph: Graph) -> None:
    node = Node(get_op("aten.relu"), [graph.nodes[0].result], result_types=[F32], location=Location("model.py", 8))
    assert node.graph is None


def wrong_order(graph: Graph) -> None:
    graph.move_before(graph.nodes[1], graph.nodes[0])


def foreign_value(graph: Graph) -> None:
    graph.nodes[1].set_operand(0, Value(F32, "stranger"))


def value_of_another_graph(graph: Graph) -> None:
    graph.nodes[1].set_operand(0, sample().nodes[0].result)


def constant_of_another_graph(graph: Graph) -> None:
    graph.nodes[0].set_operand(1, sample().constants["w"])


def missing_operand(graph: Graph) -> None:
    graph.nodes[1].set_operand(0, None)


def too_few_operands(graph: Graph) -> None:
    graph.nodes[2].set_operands([graph.nodes[0].result])


def too_many_operands(graph: Graph) -> None:
    graph.nodes[1].set_operands([graph.nodes[0].result] * 2)


def unknown_attribute(graph: Graph) -> None:
    graph.nodes[1].attributes = Attributes({"beta": 1})


def wrong_attribute_type(graph: Graph) -> None:
    graph.nodes[2].attributes = Attributes({"alpha": "2"})


def wrong_dtype(graph: Graph) -> None:
    graph.nodes[1].result.type = F32.with_dtype(DType.F64)


def wrong_shape(graph: Graph) -> None:
    graph.nodes[1].result.type = F32.with_shape((3, 2))


def wrong_rank(graph: Graph) -> None:
    graph.nodes[1].result.type = F32.with_shape((6,))


def wrong_device(graph: Graph) -> None:
    graph.nodes[1].result.type = TensorType(DType.F32, (2, 3), "cuda:0")


def invalid_operands(graph: Graph) -> None:
    graph.nodes[0].set_operand(1, graph.inputs[0])


def unbound_symbol_in_type(graph: Graph) -> None:
    graph.nodes[1].result.type = F32.with_shape((from_symbol(Symbol("n", 2, 2)), 3))


def wrong_number_of_results(graph: Graph) -> None:
    node = graph.nodes[1]
    node.results = (node.result, Value(F32, "extra", producer=node, index=1))


BROKEN: list[tuple[Callable[[Graph], None], str, str]] = [
    (drop_use, "operand 1 (%b) does not list this use", "model.py:9 add"),
    (stale_use, "%b lists a use that the node does not have", "model.py:8 act"),
    (use_of_an_erased_node, "%a lists a use that the node does not have", "model.py:8"),
    (wrong_order, "operand 0 (%a) is not defined before its use", "model.py:8 act"),
    (foreign_value, "operand 0 (%stranger) is not defined before its use", "model.py:8 act"),
    (value_of_another_graph, "operand 0 (%a) is not defined before its use", "model.py:8 act"),
    (constant_of_another_graph, "operand 1 (%w) is not defined before its use", "model.py:7 layer <- some-rule"),
    (missing_operand, "aten.relu needs operand 'self'", "model.py:8 act"),
    (too_few_operands, "aten.add.Tensor needs operand 'other'", "model.py:9 add"),
    (too_many_operands, "aten.relu takes 1 operands, got 2", "model.py:8 act"),
    (unknown_attribute, "aten.relu has no attribute 'beta'", "model.py:8 act"),
    (wrong_attribute_type, "attribute 'alpha' of aten.add.Tensor is '2', not of type Scalar", "model.py:9 add"),
    (wrong_dtype, "result %b is f64[2, 3], inference says f32[2, 3]", "model.py:8 act"),
    (wrong_shape, "result %b is f32[3, 2], inference says f32[2, 3]", "model.py:8 act"),
    (wrong_rank, "result %b is f32[6], inference says f32[2, 3]", "model.py:8 act"),
    (wrong_device, "result %b is f32[2, 3]@cuda:0, inference says f32[2, 3]", "model.py:8 act"),
    (invalid_operands, "aten.mm cannot take (f32[2, 3], f32[2, 3]): the inner sizes differ: 3 and 2", "model.py:7"),
    (unbound_symbol_in_type, "symbol n of %b is not bound by an input or a node before", "model.py:8 act"),
    (wrong_number_of_results, "inference gives 1 results, the node has 2", "model.py:8 act"),
]


@pytest.mark.parametrize(("damage", "message", "origin"), BROKEN, ids=[b[0].__name__ for b in BROKEN])
def test_broken_nodes_are_named(damage: Callable[[Graph], None], message: str, origin: str) -> None:
    graph = sample()
    verify(graph)
    damage(graph)
    with pytest.raises(VerificationError) as caught:
        verify(graph)
    text = str(caught.value)
    assert message in text
    assert "\n  in: %" in text and f"\n  from: {origin}" in text


TOUCHED = [wrong_order, foreign_value, value_of_another_graph, constant_of_another_graph, wrong_dtype, missing_operand]


@pytest.mark.parametrize("damage", TOUCHED)
def test_checking_touched_nodes_finds_it_too(damage: Callable[[Graph], None]) -> None:
    graph = sample()
    verify_nodes(graph, graph.nodes)
    damage(graph)
    if damage is foreign_value:  # a value without a producer might be an input: only the whole check knows
        return
    with pytest.raises(VerificationError):
        verify_nodes(graph, graph.nodes)


def test_erased_nodes_are_not_checked() -> None:
    graph = sample()
    node = Node(get_op("aten.relu"), [graph.inputs[0]], result_types=[F32])
    graph.append(node)
    graph.erase(node)
    verify_nodes(graph, [node])


def test_constants_equal_their_tensors() -> None:
    graph = sample()
    value = graph.constants["w"]
    value.constant = Constant(torch.zeros(2, 3))
    with pytest.raises(VerificationError, match=r"constant 'w' is f32\[3, 3\], its tensor is torch.float32 \(2, 3\)"):
        verify(graph)
    value.constant = Constant(torch.zeros(3, 3, dtype=torch.float64))
    with pytest.raises(VerificationError, match=r"its tensor is torch\.float64"):
        verify(graph)
    graph = sample()
    graph.constants["v"] = graph.constants["w"]
    with pytest.raises(VerificationError, match="constant 'v' is not a stored tensor of that name"):
        verify(graph)


def test_updates_name_an_input_or_constant() -> None:
    graph = sample()
    graph.set_outputs([], {"running_mean": graph.inputs[0]})
    with pytest.raises(VerificationError, match="graph main updates 'running_mean', which is no input or constant"):
        verify(graph)


def test_outputs_are_checked() -> None:
    graph = sample()
    graph.set_outputs([Value(F32, "stranger")])
    with pytest.raises(VerificationError, match=r"operand 0 \(%stranger\) is not defined before its use"):
        verify(graph)


@pytest.mark.parametrize("name", ["", "x", "w"])
def test_inputs_have_names_of_their_own(name: str) -> None:
    graph = sample()
    graph.inputs.append(Value(F32, name))
    with pytest.raises(VerificationError, match="needs a name of its own for input"):
        verify(graph)


def test_count_of_nodes() -> None:
    graph = sample()
    graph._count += 1
    with pytest.raises(VerificationError, match="counts 4 nodes but links 3"):
        verify(graph)


def test_attributes_may_use_bound_symbols_only() -> None:
    text = "input %x: f32[n, 4]\n%y: f32[2*n, 2] = aten.view(%x) {size=(2*n, 2)}\nreturn %y"
    graph = parse(text)
    verify(graph)
    with pytest.raises(VerificationError, match="symbol m in an attribute is not bound by an input or a node before"):
        verify(parse(text.replace("size=(2*n, 2)", "size=(2*m, 2)")))


def test_sizes_bound_by_a_node_are_usable_after_it() -> None:
    bound = "%i: i64[u0, 1] = nonzero(%x)"
    used = "%z: f32[u0] = zeros() {size=(u0,)}"
    verify(parse(f"input %x: f32[4]\n{bound}\n{used}\nreturn %i, %z"))
    with pytest.raises(VerificationError, match="symbol u0 in an attribute is not bound"):
        verify(parse(f"input %x: f32[4]\n{used}\n{bound}\nreturn %i, %z"))


def test_one_name_means_one_symbol() -> None:
    graph = Graph()
    graph.add_input("x", TensorType(DType.F32, (from_symbol(Symbol("n", 1)),)))
    graph.add_input("y", TensorType(DType.F32, (from_symbol(Symbol("n", 2)),)))
    with pytest.raises(VerificationError, match=r"two symbols of the name n \(%y\)"):
        verify(graph)
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (from_symbol(Symbol("n", 1)),)))
    graph.append(Node(get_op("aten.relu"), [x], result_types=[TensorType(DType.F32, (from_symbol(Symbol("n")),))]))
    with pytest.raises(VerificationError, match=r"symbol n of %.* has another range where it is bound"):
        verify(graph)


def test_regions_are_verified() -> None:
    graph = parse("""
    input %p: bool[]
    input %x: f32[2]
    %y = higher_order.cond(%p, %x) [
      graph then {
        input %a: f32[2]
        %b: f32[2] = relu(%a) @ "model.py":3
        return %b
      }
      graph other {
        input %a: f32[2]
        return %a
      }
    ]
    return %y""")
    verify(graph)
    graph.nodes[0].regions[0].nodes[0].result.type = TensorType(DType.F64, (2,))
    with pytest.raises(VerificationError, match="inference says") as caught:
        verify(graph)
    assert "from: model.py:3" in str(caught.value)


CONDITION = """
input %p: {predicate}
input %x: f32[2, s]
%y: f32[2, 4] = higher_order.cond({operands}) [
  graph then {{
    input %a: f32[2, s]
    return %a
  }}
  graph other {{
    input %a: {other}
    return %a
  }}
]
return %y"""


@pytest.mark.parametrize(
    ("predicate", "operands", "other", "message"),
    [
        ("bool[]", "%p, %x", "f32[2, s]", ""),
        ("bool[1]", "%p, %x", "f32[2, s]", ""),
        ("bool", "%p, %x", "f32[2, s]", ""),
        ("f32[]", "%p, %x", "f32[2, s]", "needs one bool to decide by, got f32[]"),
        ("bool[2]", "%p, %x", "f32[2, s]", "needs one bool to decide by, got bool[2]"),
        ("bool[]", "%p", "f32[2, s]", "region then of higher_order.cond takes 1 inputs, 0 are given"),
        (
            "bool[]",
            "%p, %x",
            "f64[2, s]",
            "input %a of region other of higher_order.cond is f64[2, s], f32[2, s] is given",
        ),
    ],
)
def test_control_flow_types(predicate: str, operands: str, other: str, message: str) -> None:
    graph = parse(CONDITION.format(predicate=predicate, operands=operands, other=other))
    graph.nodes[0].results[0].type = graph.inputs[1].type
    if not message:
        verify(graph)
        return
    with pytest.raises(VerificationError) as caught:
        verify(graph)
    assert message in str(caught.value)


def test_verify_node_checks_a_node_alone() -> None:
    graph = sample()
    graph.nodes[2].attributes = Attributes({"alpha": None})
    with pytest.raises(GraphOptError, match="attribute 'alpha'"):
        verify_node(graph.nodes[2])
