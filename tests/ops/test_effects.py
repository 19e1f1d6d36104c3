"""What nodes do besides computing: randomness, updates of statistics, symbols, regions."""

from __future__ import annotations

import pytest

from graphopt.ir import Graph
from graphopt.ops import get_op, parse
from graphopt.ops.effects import has_effect, is_pure, is_random, is_removable
from graphopt.ops.traits import is_commutative

BATCH_NORM = "momentum=0.1, eps=1e-5, cudnn_enabled=false"
LSTM = "has_biases=false, num_layers=1, bidirectional=false, batch_first=false"
LSTM_OPERANDS = "%x, %h, %h, %w, %u"
HEADER = """
input %x: f32[3, 2, 4]
input %h: f32[1, 2, 4]
input %w: f32[16, 4]
input %u: f32[16, 4]
input %c: f32[2]
"""
LSTM_SEGMENTS = "operand_segment_sizes=(1, 2, 2)"

# A node, what it is for inference, and what it is where the graph is trained, if that differs.
CASES: list[tuple[str, str, str]] = [
    ("relu(%x)", "pure removable", ""),
    ("dropout(%x) {p=0.5, train=false}", "pure removable", ""),
    ("dropout(%x) {p=0.5, train=true}", "removable random", ""),
    ('dropout(%x) {p=0.5, train="follow"}', "pure removable", "removable random"),
    ("dropout(%x) {p=0.0, train=true}", "pure removable", ""),
    ("native_dropout(%x) {p=0.5, train=none}", "removable random", ""),
    ("feature_dropout(%x) {p=0.5, train=true}", "removable random", ""),
    ("rrelu(%x)", "pure removable", ""),
    ("rrelu(%x) {training=true}", "removable random", ""),
    ("bernoulli(%x)", "removable random", ""),
    ("rand() {size=(2,)}", "removable random", ""),
    ("empty_like(%x)", "removable random", ""),
    ("empty.memory_format() {size=(2,)}", "removable random", ""),
    ("scaled_dot_product_attention(%x, %x, %x)", "pure removable", ""),
    ("scaled_dot_product_attention(%x, %x, %x) {dropout_p=0.1}", "removable random", ""),
    (f"batch_norm(%x, none, none, %c, %c) {{training=false, {BATCH_NORM}}}", "pure removable", ""),
    (f"batch_norm(%x, none, none, %c, %c) {{training=true, {BATCH_NORM}}}", "effect", ""),
    (f'batch_norm(%x, none, none, %c, %c) {{training="follow", {BATCH_NORM}}}', "pure removable", "effect"),
    (f"batch_norm(%x) {{training=true, {BATCH_NORM}}}", "pure removable", ""),
    (f"instance_norm(%x) {{use_input_stats=true, {BATCH_NORM}}}", "pure removable", ""),
    (f"instance_norm(%x, none, none, %c, %c) {{use_input_stats=true, {BATCH_NORM}}}", "effect", ""),
    (f"lstm.input({LSTM_OPERANDS}) {{dropout=0.0, train=true, {LSTM}, {LSTM_SEGMENTS}}}", "pure removable", ""),
    (f"lstm.input({LSTM_OPERANDS}) {{dropout=0.5, train=true, {LSTM}, {LSTM_SEGMENTS}}}", "removable random", ""),
    (f"lstm.input({LSTM_OPERANDS}) {{dropout=0.5, train=false, {LSTM}, {LSTM_SEGMENTS}}}", "pure removable", ""),
    ("nonzero(%x)", "", ""),
    ('_functional_assert_async.msg(%x, %x) {assert_msg="no"}', "effect", ""),
]


def properties(graph: Graph, trainable: bool) -> str:
    node = graph.nodes[-1]
    asked = {"pure": is_pure, "removable": is_removable, "random": is_random, "effect": has_effect}
    return " ".join(name for name, ask in asked.items() if ask(node, trainable))


@pytest.mark.parametrize(("body", "inference", "training"), CASES, ids=[c[0] for c in CASES])
def test_node_properties(body: str, inference: str, training: str) -> None:
    graph = parse(f"{HEADER}{body}\nreturn %x")
    assert properties(graph, False) == inference
    assert properties(graph, True) == (training or inference)


def test_mask_index_introduces_a_symbol_and_integer_index_does_not() -> None:
    graph = parse("input %x: f32[4]\ninput %m: bool[4]\ninput %i: i64[2]\n%a = index.Tensor(%x, %m)\nreturn %a")
    assert not is_pure(graph.nodes[0]) and not is_removable(graph.nodes[0])
    graph = parse("input %x: f32[4]\ninput %i: i64[2]\n%a = index.Tensor(%x, %i)\nreturn %a")
    assert is_pure(graph.nodes[0]) and is_removable(graph.nodes[0])


@pytest.mark.parametrize(("inner", "pure"), [("relu(%a)", True), ("dropout(%a) {p=0.5, train=true}", False)])
def test_regions_are_as_pure_as_their_nodes(inner: str, pure: bool) -> None:
    graph = parse(f"""
    input %p: bool[]
    input %x: f32[2]
    %y = higher_order.cond(%p, %x) [
      graph then {{
        input %a: f32[2]
        %b = {inner}
        return %b
      }}
      graph other {{
        input %a: f32[2]
        return %a
      }}
    ]
    return %y""")
    assert is_pure(graph.nodes[0]) is pure
    assert is_removable(graph.nodes[0])


def test_custom_operators_may_do_anything() -> None:
    import torch

    with torch.library._scoped_library("effects_test", "DEF") as library:
        library.define("opaque(Tensor x) -> Tensor")
        op = get_op("effects_test.opaque")
        assert not op.is_removable
        library.impl("opaque", lambda x: x.clone(), "CompositeExplicitAutograd")
        graph = parse("input %x: f32[2]\n%y: f32[2] = effects_test.opaque(%x)\nreturn %x")
        assert properties(graph, False) == "effect"


def test_scaled_addition_does_not_commute() -> None:
    graph = parse("""
    input %x: f32[2]
    input %y: f32[2]
    %a = add.Tensor(%x, %y)
    %b = add.Tensor(%x, %y) {alpha=2}
    %c = sub.Tensor(%x, %y)
    return %a, %b, %c""")
    assert [is_commutative(node) for node in graph] == [True, False, False]
