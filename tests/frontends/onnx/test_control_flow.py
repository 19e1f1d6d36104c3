"""If, Loop and Scan: inlined, unrolled, regions or opaque; ONNX Runtime on the source is the judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphopt.backends.fx import emit_fx
from graphopt.backends.onnx import emit_onnx
from graphopt.errors import GraphOptError
from graphopt.frontends.onnx import read_onnx
from graphopt.ir import TensorType, walk
from tests.frontends.onnx.models import BOOL, FLOAT, INT, agree, body, info, model, node, ops, sequence_info, stored

YES, NO = torch.tensor(True), torch.tensor(False)
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def branching(then: list[object], other: list[object], shape: object = ("N", 3)) -> object:
    """If c: then else other, on `h` = −x."""
    branches = {
        "then_branch": body(then, [], [info("r", None)], stored("w", [1.0, 2.0, 3.0])),
        "else_branch": body(other, [], [info("r", None)]),
    }
    nodes = [node("Neg", "x", "h"), node("If", "c", "y", **branches), node("Relu", "h", "z")]
    return nodes, shape


def test_an_if_is_a_region_of_each_branch() -> None:
    nodes, shape = branching([node("Mul", "h w", "r")], [node("Exp", "h", "t"), node("Add", "t x", "r")])
    source = model(body(nodes, [info("x", shape), info("c", (), BOOL)], [info("y", shape), info("z", shape)]))
    graph = agree(source, X, YES)
    agree(source, X, NO)
    assert ops(graph) == ["aten.neg", "higher_order.cond", "aten.relu"]
    cond = graph.nodes[1]
    assert [len(region.inputs) for region in cond.regions] == [2, 2]  # both take h and x
    assert cond.results[0].type == graph.inputs[0].type


@pytest.mark.parametrize("known", [True, False])
def test_a_known_condition_chooses_its_branch(known: bool) -> None:
    nodes, shape = branching([node("Mul", "h w", "r")], [node("Exp", "h", "r")])
    source = model(body(nodes, [info("x", shape)], [info("y", shape), info("z", shape)], stored("c", known, bool)))
    assert ops(agree(source, X)) == ["aten.neg", "aten.mul.Tensor" if known else "aten.exp", "aten.relu"]


def test_a_condition_on_shapes_is_known() -> None:
    """The rank decides, as exporters write `squeeze`."""
    nodes = [
        node("Shape", "x", "s"),
        node("Size", "s", "rank"),
        node("Equal", "rank two", "c"),
        *branching([node("Mul", "h w", "r")], [node("Exp", "h", "r")])[0],
    ]
    graph = agree(
        model(
            body(nodes, [info("x", ("N", 3))], [info("y", ("N", 3)), info("z", ("N", 3))], stored("two", 2, np.int64))
        ),
        X,
    )
    assert ops(graph) == ["aten.neg", "aten.mul.Tensor", "aten.relu"]


def test_branches_of_different_rank_stay_an_if() -> None:
    nodes, shape = branching([node("Mul", "h w", "r")], [node("ReduceMax", "h", "r", keepdims=0)])
    source = model(body(nodes, [info("x", shape), info("c", (), BOOL)], [info("y"), info("z", shape)]))
    graph = read_onnx(source)
    assert ops(graph) == ["aten.neg", "onnx.If", "aten.relu"]
    assert repr(graph.outputs[0].type) == "f32[*]"


def test_branches_of_different_sizes() -> None:
    nodes, shape = branching([node("Concat", "h x", "r", axis=0)], [node("Exp", "h", "r")])
    source = model(body(nodes, [info("x", shape), info("c", (), BOOL)], [info("y", ("M", 3)), info("z", shape)]))
    graph = agree(source, X, YES)
    agree(source, X, NO)
    assert isinstance(graph.outputs[0].type, TensorType) and str(graph.outputs[0].type.shape[0]) == "u0"


def test_nested_ifs_capture_through_both() -> None:
    inner = {
        "then_branch": body([node("Add", "t x", "q")], [], [info("q")]),
        "else_branch": body([node("Sub", "t x", "q")], [], [info("q")]),
    }
    outer = {
        "then_branch": body([node("Neg", "x", "t"), node("If", "d", "r", **inner)], [], [info("r")]),
        "else_branch": body([node("Exp", "x", "r")], [], [info("r")]),
    }
    inputs = [info("x", ("N", 3)), info("c", (), BOOL), info("d", (), BOOL)]
    source = model(body([node("If", "c", "y", **outer)], inputs, [info("y", ("N", 3))]))
    for c in (YES, NO):
        for d in (YES, NO):
            graph = agree(source, X, c, d)
    assert [n.op.name for n in walk(graph)].count("higher_order.cond") == 2


def test_weights_that_both_branches_use_are_stored_once() -> None:
    branches = {
        "then_branch": body([node("MatMul", "x w", "r")], [], [info("r")]),
        "else_branch": body([node("MatMul", "x w", "t"), node("Neg", "t", "r")], [], [info("r")]),
    }
    inputs = [info("x", ("N", 3)), info("c", (), BOOL)]
    source = model(body([node("If", "c", "y", **branches)], inputs, [info("y", ("N", 3))], stored("w", np.eye(3) * 2)))
    graph = agree(source, X, YES)
    assert len(emit_onnx(graph).graph.initializer) == 1
    assert len(dict(emit_fx(graph).named_parameters())) == 1


# Loop


def summing(*, scan: bool = True, condition: list[object] | None = None) -> object:
    """s ← s + x; each round also gives 2·s."""
    nodes = [node("Add", "s x", "s2"), *(condition or [node("Identity", "going", "again")])]
    outputs = [info("again", (), BOOL), info("s2")]
    if scan:
        nodes.append(node("Add", "s2 s2", "twice"))
        outputs.append(info("twice"))
    return body(nodes, [info("i", (), INT), info("going", (), BOOL), info("s", ("N", 3))], outputs)


def test_a_loop_of_a_known_number_of_rounds_is_unrolled() -> None:
    loop = node("Loop", "n yes x", "s all", body=summing())
    outputs = [info("s", ("N", 3)), info("all", (3, "N", 3))]
    source = model(body([loop], [info("x", ("N", 3))], outputs, stored("n", 3, np.int64), stored("yes", True, bool)))
    assert ops(agree(source, X)) == ["aten.add.Tensor"] * 6 + ["aten.stack"]


def test_the_number_of_a_round_is_known_when_unrolled() -> None:
    nodes = [
        node("Gather", "s i", "row", axis=0),
        node("Add", "total row", "total2"),
        node("Identity", "going", "again"),
    ]
    looped = body(
        nodes,
        [info("i", (), INT), info("going", (), BOOL), info("total", (3,))],
        [info("again", (), BOOL), info("total2")],
    )
    nodes = [node("Neg", "x", "s"), node("Loop", "n _ zero", "y", body=looped)]
    source = model(
        body(nodes, [info("x", (4, 3))], [info("y", (3,))], stored("n", 4, np.int64), stored("zero", [0.0] * 3))
    )
    assert "aten.select.int" in ops(agree(source, X)) or "higher_order.while_loop" not in ops(agree(source, X))


def test_a_condition_that_is_known_ends_an_unrolled_loop() -> None:
    """while i < 2"""
    condition = [node("Less", "i one", "again")]
    loop = node("Loop", "_ yes x", "s all", body=summing(condition=condition))
    outputs = [info("s", ("N", 3)), info("all", ("K", "N", 3))]
    source = model(body([loop], [info("x", ("N", 3))], outputs, stored("one", 1, np.int64), stored("yes", True, bool)))
    assert ops(agree(source, X)).count("aten.add.Tensor") == 4


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_a_loop_of_any_number_of_rounds_is_a_while_loop(rounds: int) -> None:
    loop = node("Loop", "n _ x", "s", body=summing(scan=False))
    source = model(body([loop], [info("x", ("N", 3)), info("n", (), INT)], [info("s", ("N", 3))]))
    graph = agree(source, X, torch.tensor(rounds))
    assert ops(graph)[-1] == "higher_order.while_loop"


def test_a_condition_on_data_ends_a_while_loop() -> None:
    condition = [node("ReduceSum", "s2", "sum", keepdims=0), node("Less", "sum most", "again")]
    loop = node("Loop", "_ yes x", "s", body=summing(scan=False, condition=condition))
    stores = [stored("most", 40.0), stored("yes", True, bool)]
    source = model(body([loop], [info("x", ("N", 3))], [info("s", ("N", 3))], *stores))
    graph = agree(source, X.abs() + 0.1)
    assert ops(graph)[-1] == "higher_order.while_loop"


def test_results_of_an_unknown_number_of_rounds_stay_a_loop() -> None:
    loop = node("Loop", "n _ x", "s all", body=summing())
    outputs = [info("s", ("N", 3)), info("all", ("K", "N", 3))]
    source = model(body([loop], [info("x", ("N", 3)), info("n", (), INT)], outputs))
    assert ops(agree(source, X, torch.tensor(3))) == ["onnx.Loop"]


def test_a_value_that_grows_stays_a_loop() -> None:
    looped = body(
        [node("Concat", "s x", "s2", axis=0), node("Identity", "going", "again")],
        [info("i", (), INT), info("going", (), BOOL), info("s", (None, 3))],
        [info("again", (), BOOL), info("s2", (None, 3))],
    )
    loop = node("Loop", "n _ x", "s", body=looped)
    source = model(body([loop], [info("x", ("N", 3)), info("n", (), INT)], [info("s", ("K", 3))]))
    assert ops(agree(source, X, torch.tensor(3))) == ["onnx.Loop"]


def test_a_long_loop_is_not_unrolled() -> None:
    loop = node("Loop", "n _ x", "s", body=summing(scan=False))
    source = model(body([loop], [info("x", ("N", 3))], [info("s", ("N", 3))], stored("n", 10**6, np.int64)))
    assert ops(read_onnx(source)) == ["higher_order.while_loop"]


# Scan


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scan_input_axes": [1], "scan_output_axes": [1]},
        {"scan_input_directions": [1], "scan_output_directions": [1]},
    ],
)
def test_a_scan_over_a_known_length_is_unrolled(options: dict[str, list[int]]) -> None:
    length = 4 if not options.get("scan_input_axes") else 3
    width = 7 - length
    step = body(
        [node("Add", "s e", "s2"), node("Mul", "s2 s2", "q")],
        [info("s", (width,)), info("e", (width,))],
        [info("s2", (width,)), info("q", (width,))],
    )
    scan = node("Scan", "s0 x", "s all", body=step, num_scan_inputs=1, **options)
    source = model(body([scan], [info("x", (4, 3)), info("s0", (width,))], [info("s", (width,)), info("all")]))
    graph = read_onnx(source)
    source.graph.output[1].type.tensor_type.shape.SetInParent()
    assert ops(graph).count("aten.add.Tensor") == length
    for size in graph.outputs[1].shape:
        source.graph.output[1].type.tensor_type.shape.dim.add().dim_value = size
    agree(source, X, torch.randn(width))


def test_a_scan_over_an_unknown_length_stays() -> None:
    step = body(
        [node("Add", "s e", "s2"), node("Identity", "s2", "q")],
        [info("s", (3,)), info("e", (3,))],
        [info("s2", (3,)), info("q", (3,))],
    )
    scan = node("Scan", "s0 x", "s all", body=step, num_scan_inputs=1)
    inputs = [info("x", ("N", 3)), info("s0", (3,))]
    source = model(body([scan], inputs, [info("s", (3,)), info("all", ("N", 3))]))
    graph = agree(source, X, torch.randn(3))
    assert ops(graph) == ["onnx.Scan"]
    assert repr(graph.outputs[1].type) == "f32[N, 3]"


@pytest.mark.parametrize("direction", [0, 1])
def test_a_scan_over_batches_of_the_oldest_kind(direction: int) -> None:
    step = body(
        [node("Add", "s e", "s2"), node("Mul", "s2 e", "q")],
        [info("s", (3,)), info("e", (3,))],
        [info("s2", (3,)), info("q", (3,))],
    )
    scan = node("Scan", "_ s0 x", "s all", body=step, num_scan_inputs=1, directions=[direction])
    inputs = [info("x", (2, 4, 3)), info("s0", (2, 3))]
    graph = agree(
        model(body([scan], inputs, [info("s", (2, 3)), info("all", (2, 4, 3))]), 8), torch.randn(2, 4, 3), X[:2]
    )
    assert ops(graph).count("aten.add.Tensor") == 8


# Bounds and mistakes


def test_loops_in_loops_share_the_bound_on_unrolling() -> None:
    step = summing(scan=False)
    for _ in range(5):  # 10⁶ rounds
        nodes = [node("Loop", "n _ s", "s2", body=step), node("Identity", "going", "again")]
        step = body(
            nodes,
            [info("i", (), INT), info("going", (), BOOL), info("s", ("N", 3))],
            [info("again", (), BOOL), info("s2")],
        )
    loop = node("Loop", "n _ x", "s", body=step)
    source = model(body([loop], [info("x", ("N", 3))], [info("s", ("N", 3))], stored("n", 10, np.int64)))
    graph = read_onnx(source)
    assert 0 < sum(1 for _ in walk(graph)) < 20_000


def test_loops_in_loops_are_tried_in_bounded_time() -> None:
    """Each could be unrolled but for its condition, which depends on data; so each is read twice."""
    condition = [node("ReduceSum", "s2", "sum", keepdims=0), node("Less", "sum most", "again")]
    step = summing(scan=False, condition=condition)
    for _ in range(20):  # 2²⁰ readings
        inputs = [info("i", (), INT), info("going", (), BOOL), info("s", ("N", 3))]
        nodes = [node("Loop", "n _ s", "s2", body=step), *condition]
        step = body(nodes, inputs, [info("again", (), BOOL), info("s2")])
    loop = node("Loop", "n _ x", "s", body=step)
    stores = [stored("n", 10, np.int64), stored("most", 40.0)]
    source = model(body([loop], [info("x", ("N", 3))], [info("s", ("N", 3))], *stores))
    assert len(read_onnx(source)) == 1


def test_deep_nesting() -> None:
    graph = body([node("Neg", "x", "r")], [], [info("r")])
    for _ in range(25):
        graph = body(
            [node("If", "c", "r", then_branch=graph, else_branch=body([node("Exp", "x", "r")], [], [info("r")]))],
            [],
            [info("r")],
        )
    source = model(body(list(graph.node), [info("x", (3,)), info("c", (), BOOL)], [info("r", (3,))]))
    assert [n.op.name for n in walk(agree(source, X[0], YES))].count("higher_order.cond") == 25


def test_a_body_of_the_wrong_number_of_inputs() -> None:
    looped = body(
        [node("Identity", "going", "again")], [info("i", (), INT), info("going", (), BOOL)], [info("again", (), BOOL)]
    )
    source = model(
        body([node("Loop", "n _ x", "s", body=looped)], [info("x", (2,))], [info("s", (2,))], stored("n", 2, np.int64))
    )
    with pytest.raises(GraphOptError, match=r"cannot read node s \(Loop\): graph 'g' takes 2 inputs, 3 are given"):
        read_onnx(source)


def test_a_name_that_only_another_branch_defines() -> None:
    nodes, shape = branching([node("Exp", "h", "t"), node("Neg", "t", "r")], [node("Neg", "t", "r")])
    source = model(body(nodes, [info("x", shape), info("c", (), BOOL)], [info("y", shape), info("z", shape)]))
    with pytest.raises(GraphOptError, match="'t', which no input, initializer or earlier node defines"):
        read_onnx(source)


def test_sequences_in_a_loop_of_known_rounds_vanish() -> None:
    looped = body(
        [node("Add", "s x", "s2"), node("SequenceInsert", "q s2", "q2"), node("Identity", "going", "again")],
        [info("i", (), INT), info("going", (), BOOL), info("s", ("N", 3)), sequence_info("q")],
        [info("again", (), BOOL), info("s2", ("N", 3)), sequence_info("q2")],
    )
    nodes = [
        node("SequenceEmpty", "", "none", dtype=FLOAT),
        node("Loop", "n _ x none", "s q", body=looped),
        node("ConcatFromSequence", "q", "y", axis=0, new_axis=1),
    ]
    source = model(body(nodes, [info("x", ("N", 3))], [info("y", (3, "N", 3))], stored("n", 3, np.int64)))
    assert ops(agree(source, X)) == ["aten.add.Tensor"] * 3 + ["aten.stack"]


MALFORMED = {
    "a Loop without a body": node("Loop", "n _ x", "s"),
    "an If with one branch": node("If", "c", "s", then_branch=body([], [], [info("x", (2, 3))])),
    "an If with too few outputs": node(
        "If", "c", "s q", then_branch=body([], [], [info("x")]), else_branch=body([], [], [info("x")])
    ),
    "a Scan of more inputs than there are": node("Scan", "x", "s", body=body([], [], []), num_scan_inputs=7),
    "a Scan without their number": node("Scan", "x", "s", body=body([], [], [])),
    "a Scan along a dim that is not there": node(
        "Scan", "x", "s", body=body([], [info("e")], [info("e")]), num_scan_inputs=1, scan_input_axes=[7]
    ),
    "an element of nothing": node("SequenceAt", "", "s"),
    "an element of a tensor": node("SequenceAt", "x n", "s"),
    "parts of size zero": node("SplitToSequence", "x zero", "s"),
    "the element of nothing": node("OptionalGetElement", "", "s"),
    "an unknown element type": node("SequenceEmpty", "", "s", dtype=77),
    "no operator": node("", "x", "s"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_nodes_are_refused(name: str) -> None:
    inputs = [info("x", (2, 3)), info("n", (), INT), info("c", (), BOOL)]
    source = model(body([MALFORMED[name]], inputs, [info("s", (2, 3))], stored("zero", 0, np.int64)))
    with pytest.raises(GraphOptError, match="cannot read node s"):
        read_onnx(source)
