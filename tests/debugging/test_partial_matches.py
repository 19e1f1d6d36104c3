"""The slow path that explains matches agrees with the fast path that makes them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from graphopt.ir import Graph, Node
from graphopt.ops import parse
from graphopt.passes.canonicalize import Canonicalize
from graphopt.passes.fold_batch_norm import FoldBatchNorm
from graphopt.passes.fold_constants import FoldConstants
from graphopt.passes.fold_pad import FoldPad
from graphopt.passes.fuse_attention import FuseAttention
from graphopt.passes.fuse_linear import FuseLinear
from graphopt.passes.legalize import Legalize
from graphopt.passmanager import RulePass
from graphopt.rewrite import (
    Algebra,
    Contract,
    Match,
    Rule,
    RuleSet,
    apply_rules,
    aten,
    constant,
    either,
    optional,
    produced_by,
    var,
)
from graphopt.rewrite.attempts import Attempts, Stage
from graphopt.rewrite.partial import explain_match, pattern_text
from graphopt.rewrite.pattern import OpPattern, Surroundings
from graphopt.testing import graphs
from tests.passes.test_properties import ARITHMETIC, ATTENTION, LAYERS, PADS, SHAPES

PASSES: list[RulePass] = [
    Canonicalize(),
    FoldBatchNorm(),
    FoldConstants(),
    FoldPad(),
    FuseAttention(),
    FuseLinear(),
    Legalize(target="onnxruntime"),
]
x, y, w = var("x"), var("y"), var("w")
SHALLOW = frozenset({"aten.relu", "aten.neg", "aten.abs"})
# One pattern for each kind of part, in places where graphs of arithmetic come near.
PATTERNS: list[OpPattern] = [
    aten.add(x, x),
    aten.add(x, 0),
    aten.mul(constant("c"), x),
    aten.sub(aten.neg(x).once, y),
    aten.maximum(either(aten.relu(x), aten.abs(x)), y),
    aten.relu(optional(aten.neg, x)),
    aten.mul(produced_by(SHALLOW, "inner").once, y),
    aten.add(var("x", lambda value: bool(value.shape)), y),
    aten.add.Tensor(x, y),
    aten.add.Tensor(x, y, alpha=2),
    aten.clamp(x, None, ...),
    aten.add(aten.mul(x, y).named("product"), w, ...),
]
RULES = [Algebra(f"example-{i}", pattern, pattern, Contract.LOSSY) for i, pattern in enumerate(PATTERNS)]


def disagreements(graph: Graph, rules: RuleSet) -> list[str]:
    """Where the two paths differ in whether they match, or in what they bind."""
    found = []
    surroundings = Surroundings(False, frozenset(graph.mutations))
    for node in graph:
        for rule, pattern in rules.candidates(node.op):
            fast, slow = Match(node, surroundings), Match(node, surroundings)
            matches, explained = pattern.match_node(node, fast), explain_match(pattern, node, slow)
            if matches != explained.matches or (matches and (fast.bindings, fast.nodes) != (slow.bindings, slow.nodes)):
                found.append(f"{rule.label} at {node!r}: {matches}, {explained}")
            if matches:
                assert explained.matched == explained.total
            else:
                assert explained.matched < explained.total or not explained.matches
    return found


@settings(max_examples=60, deadline=None)
@given(graphs(max_nodes=12, operators=ARITHMETIC.split()))
def test_every_kind_of_pattern(graph: Graph) -> None:
    assert disagreements(graph, RuleSet(RULES)) == []


@pytest.mark.parametrize("operators", [ARITHMETIC, SHAPES, LAYERS + " " + PADS, ATTENTION])
def test_rules_of_all_passes(operators: str) -> None:
    rules = RuleSet([rule for pass_ in PASSES for rule in pass_.rules()])

    @settings(max_examples=25, deadline=None, database=None)
    @given(graphs(max_nodes=12, operators=operators.split()))
    def agree(graph: Graph) -> None:
        assert disagreements(graph, rules) == []

    agree()


@settings(max_examples=40, deadline=None)
@given(graphs(max_nodes=8, operators=ARITHMETIC.split()))
def test_a_rule_fires_exactly_where_an_attempt_applies(graph: Graph) -> None:
    text = str(graph)
    rules = list({rule.label: rule for rule in Canonicalize().rules()}.values())
    attempts = Attempts(graph, rules)
    applies = {a.rule for node in graph for a in attempts.at(node) if a.stage is Stage.APPLIES}
    assert str(graph) == text
    for rule in rules:
        if rule.label in applies or any(_is_root(rule, node) for node in graph):
            fired = apply_rules(graph.clone(), [rule], removable=lambda node: False, budget=10_000).applied
            assert (rule.label in fired) == (rule.label in applies), rule.label


def _is_root(rule: Rule, node: Node) -> bool:
    return any(pattern.base in (node.op.name, node.op.base) for pattern in rule.patterns)


def reasons(pattern: OpPattern, text: str) -> list[str]:
    graph = parse(text)
    root = graph.nodes[-1]
    return explain_match(pattern, root, Match(root)).reasons


def test_reasons_name_the_part_that_fails() -> None:
    text = """input %x: f32[2]
    input %z: f32[2]
    %a = aten.neg(%x)
    %b = aten.mul.Tensor(%a, %z)
    return %b, %a"""
    assert reasons(aten.mul(aten.neg(x).once, y), text) == ["%a has 1 other use, the rule wants a single one"]
    assert reasons(aten.mul(aten.neg(x), constant("c")), text) == [
        "operand 1 is the input %z, the rule wants a stored tensor"
    ]
    assert reasons(aten.mul(aten.relu(x), y), text) == ["operand 0 is %a of aten.neg, the rule wants aten.relu"]
    assert reasons(aten.mul(aten.neg(aten.exp(x)), y), text) == [
        "operand 0 of %a (aten.neg) is the input %x, the rule wants aten.exp"
    ]
    assert reasons(aten.mul(x, x), text) == ["operand 1 is the input %z, the rule wants %a of aten.neg again"]


def test_reasons_name_attributes_and_numbers() -> None:
    text = """input %x: f32[2]
    constant %c: f32[2] = [1.0, 2.0]
    %a = aten.add.Tensor(%x, %c) {alpha=2}
    return %a"""
    assert reasons(aten.add(x, constant("c")), text) == ["attribute 'alpha' is 2, the rule wants 1"]
    found = reasons(aten.add(x, 0, ...), text)
    assert found == ["operand 1 is the stored tensor %c, the rule wants the number 0 (its elements differ)"]


def test_closest_order_of_a_commutative_operator_is_explained() -> None:
    text = """input %x: f32[2]
    %a = aten.neg(%x)
    %b = aten.add.Tensor(%x, %a)
    return %b"""
    found = reasons(aten.add(aten.neg(aten.exp(x)), y), text)
    assert found == ["operand 0 of %a (aten.neg) is the input %x, the rule wants aten.exp"]


def test_pattern_text() -> None:
    pattern = aten.add(optional(aten.neg, x), aten.mul(constant("c"), 2).once, ..., alpha=1)
    assert pattern_text(pattern) == "aten.add(optional(aten.neg(x)), aten.mul(c, 2).once, ..., alpha=1)"
