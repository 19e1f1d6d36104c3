"""The greedy driver: it keeps meaning, reaches a normal form, visits in proportion, and always ends."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from graphopt.analysis import run_graph
from graphopt.errors import RewriteLimitError, RuleError
from graphopt.ir import Graph, Node, structurally_equal
from graphopt.ops import parse
from graphopt.rewrite import Algebra, Contract, Match, Rewriter, Rule, RuleSet, apply_rules, aten, var
from graphopt.rewrite.rule import Replacement
from tests.rewrite.programs import check_invariants, inputs_of, programs

x, y, z = var("x"), var("y"), var("z")
a, b = var("a", lambda v: isinstance(v, int)), var("b", lambda v: isinstance(v, int))
EXACT = Contract.BITWISE

RULES = [
    Algebra("neg-neg", aten.neg(aten.neg(x)), x, EXACT),
    Algebra("abs-neg", aten.abs(aten.neg(x)), aten.abs(x), EXACT),
    Algebra("abs-abs", aten.abs(aten.abs(x)), aten.abs(x), EXACT),
    Algebra("relu-abs", aten.relu(aten.abs(x)), aten.abs(x), EXACT),
    Algebra("relu-relu", aten.relu(aten.relu(x)), aten.relu(x), EXACT),
    Algebra("add-zero", aten.add(x, 0), x, EXACT),
    Algebra("mul-one", aten.mul(x, 1), x, EXACT),
    Algebra("sub-neg", aten.sub(x, aten.neg(y)), aten.add.Tensor(x, y), EXACT),
    Algebra("add-neg", aten.add(x, aten.neg(y)), aten.sub.Tensor(x, y), EXACT),
    Algebra("max-self", aten.maximum(x, x), x, EXACT),
    Algebra("absorb", aten.maximum(x, aten.maximum(x, y)), aten.maximum(x, y), EXACT),
    Algebra(
        "deep",
        aten.abs(aten.relu(aten.add.Tensor(aten.abs(x), aten.abs(y)))),
        aten.add.Tensor(aten.abs(x), aten.abs(y)),
        EXACT,
    ),
    Algebra(
        "factor",
        aten.add(aten.mul.Tensor(x, y).once, aten.mul.Tensor(x, z).once),
        aten.mul.Tensor(x, aten.add.Tensor(y, z)),
        EXACT,
    ),
]


def matching(graph: Graph, rules: list) -> list[str]:
    """The rules that match somewhere, found by trying each on each node."""
    rule_set = RuleSet(rules)
    return [
        f"{rule.label} at {node!r}"
        for node in graph
        for rule, pattern in rule_set.candidates(node.op)
        if pattern.match_node(node, match := Match(node)) and rule.guard(match) and rule.check(match) is None
    ]


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_meaning_is_kept_and_a_normal_form_is_reached(graph: Graph) -> None:
    before = [t.clone() for t in run_graph(graph, *inputs_of(graph))]
    statistics = apply_rules(graph, RULES)
    check_invariants(graph)
    after = run_graph(graph, *inputs_of(graph))
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert matching(graph, RULES) == []
    assert all(any(r.num_uses for r in node.results) for node in graph)
    text = str(graph)
    again = apply_rules(graph, RULES)
    assert again.changes == 0 and str(graph) == text
    assert statistics.changes >= sum(statistics.applied.values())


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_two_runs_give_the_same_text_and_counts(graph: Graph) -> None:
    first, second = graph.clone(), graph.clone()
    one, two = apply_rules(first, RULES), apply_rules(second, RULES)
    assert str(first) == str(second) and one.applied == two.applied and one.visits == two.visits


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_a_gate_stops_after_any_number_of_applications(graph: Graph) -> None:
    expected = run_graph(graph, *inputs_of(graph))
    for limit in range(4):
        count = 0

        def gate(rule: str, node: Node, limit: int = limit) -> bool:
            nonlocal count
            count += 1
            return count <= limit

        copy = graph.clone()
        statistics = apply_rules(copy, RULES, gate=gate)
        assert sum(statistics.applied.values()) <= limit
        check_invariants(copy)
        assert all(torch.equal(p, q) for p, q in zip(expected, run_graph(copy, *inputs_of(copy)), strict=True))


def wide(fan: int) -> Graph:
    """One value with many users."""
    lines = [f"%u{i} = aten.abs(%n)\n%v{i} = aten.relu(%u{i})" for i in range(fan)]
    outputs = ", ".join(f"%v{i}" for i in range(fan))
    return parse("input %x: f32[4]\n%m = aten.abs(%x)\n%n = aten.neg(%m)\n" + "\n".join(lines) + f"\nreturn {outputs}")


@pytest.mark.parametrize("fan", [1, 2, 3, 5, 9, 40])
def test_values_with_many_users_reach_the_normal_form_too(fan: int) -> None:
    graph = wide(fan)
    apply_rules(graph, RULES)
    assert [n.op.name for n in graph] == ["aten.abs"] * fan and matching(graph, RULES) == []


def test_an_attribute_that_changes_far_below_the_root_is_noticed() -> None:
    class Soften(Rule):
        """Change an attribute in place, three nodes below a root that was tried already."""

        name = "soften"
        pattern = aten.leaky_relu(x, 0.5)

        def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
            rewriter.set_attributes(match.root, negative_slope=0.25)
            return None

    far = Algebra("far", aten.neg(aten.abs(aten.sigmoid(aten.leaky_relu(x, 0.25)))), aten.neg(x), Contract.LOSSY)
    graph = parse(
        "input %x: f32[4]\n%a = aten.leaky_relu(%x) {negative_slope=0.5}\n%b = aten.sigmoid(%a)\n"
        "%c = aten.abs(%b)\n%d = aten.neg(%c)\nreturn %d"
    )
    # The order in which nodes are tried must not matter.
    for order in ([Soften(), far], [far, Soften()]):
        copy = graph.clone()
        apply_rules(copy, order)
        assert [n.op.name for n in copy] == ["aten.neg"]


class TestLinear:
    @staticmethod
    def visits(length: int) -> tuple[int, int]:
        lines = []
        for i in range(length):
            lines.append(f"%m{i} = aten.mul.Scalar(%{f's{i - 1}' if i else 'x'}) {{other=1}}")
            lines.append(f"%n{i} = aten.neg(%m{i})\n%p{i} = aten.neg(%n{i})\n%s{i} = aten.sigmoid(%p{i})")
        graph = parse("\n".join(["input %x: f32[4]", *lines, f"return %s{length - 1}"]))
        statistics = apply_rules(graph, RULES)
        assert len(graph) == length
        return statistics.visits, sum(r.attempts for r in statistics.rules.values())

    def test_visits_and_attempts_grow_with_the_graph_and_no_faster(self) -> None:
        small, large = self.visits(50), self.visits(500)
        for few, many in zip(small, large):
            assert many <= 10.5 * few
        assert large[0] <= 8 * 4 * 500

    def test_a_value_with_many_users_costs_no_square(self) -> None:
        few, many = apply_rules(wide(50), RULES).visits, apply_rules(wide(500), RULES).visits
        assert many <= 11 * few


class TestTermination:
    def test_rules_that_undo_each_other_are_named(self) -> None:
        there = Algebra("to-sub", aten.add.Tensor(x, y), aten.sub.Tensor(x, aten.neg(y)), EXACT)
        back = Algebra("to-add", aten.sub.Tensor(x, aten.neg(y)), aten.add.Tensor(x, y), EXACT)
        graph = parse("input %x: f32[4]\n%z = aten.add.Tensor(%x, %x)\nreturn %z")
        with pytest.raises(RewriteLimitError, match="'to-add' and 'to-sub' undo each other") as caught:
            apply_rules(graph, [there, back])
        log = str(caught.value).splitlines()[1:]
        assert len(log) == 20 and all(re.match(r"  to-(sub|add): %z = aten\.\w+\.Tensor\(%x, ", line) for line in log)

    def test_a_rule_that_feeds_itself_is_named(self) -> None:
        grow = Algebra("grow", aten.neg(x), aten.neg(aten.neg(aten.neg(x))), EXACT)
        graph = parse("input %x: f32[4]\n%z = aten.neg(%x)\nreturn %z")
        with pytest.raises(RewriteLimitError, match="'grow' applies to its own result for ever"):
            apply_rules(graph, [grow], budget=30)

    def test_a_budget_is_enough_for_what_ends(self) -> None:
        graph = parse("input %x: f32[4]\n%y = aten.neg(%x)\n%z = aten.neg(%y)\nreturn %z")
        assert apply_rules(graph, RULES, budget=1).applied == {"neg-neg": 1}

    @pytest.mark.parametrize("decline", ["type", "reason", "silent"])
    def test_a_rule_that_builds_and_declines_ends(self, decline: str) -> None:
        class Hesitate(Rule):
            name = "hesitate"
            pattern = aten.relu(x)

            def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
                made = rewriter.create("aten.unsqueeze", match["x"], 0).result
                rewriter.constant(torch.ones(2))
                return {"type": made, "reason": "not today", "silent": ""}[decline]

        graph = parse("input %x: f32[4]\n%y = aten.neg(%x)\n%z = aten.relu(%y)\nreturn %z")
        before = graph.clone()
        statistics = apply_rules(graph, [Hesitate()])
        assert structurally_equal(graph, before) and statistics.changes == 0 and not graph.constants
        reasons = [d.reason for d in statistics.declined]
        assert len(reasons) == (decline != "silent")
        assert sum(statistics.rules["hesitate"].reasons.values()) == (decline != "silent")


class TestStatistics:
    def test_counts(self) -> None:
        graph = parse(
            'input %x: f32[4]\n%a = aten.neg(%x)\n%b = aten.neg(%a)\n%c = aten.relu(%b) @ "m.py":3 "act"\n'
            "%dead = aten.abs(%c)\nreturn %c"
        )

        class Never(Rule):
            name = "never"
            pattern = aten.relu(x)

            def check(self, match: Match) -> str | None:
                return "never ever"

        statistics = apply_rules(graph, [*RULES, Never()])
        assert statistics.applied == {"neg-neg": 1}
        assert statistics.erased == 2 and statistics.folded == 0 and statistics.changes == 3
        assert statistics.rules["neg-neg"].matches == 1 and statistics.rules["never"].applied == 0
        (declined,) = statistics.declined
        assert (declined.rule, declined.reason) == ("never", "never ever")
        assert declined.node == "%c = aten.relu(%x)" or "aten.relu" in declined.node
        assert str(declined.location) == "m.py:3 act"

    def test_merging_adds_up(self) -> None:
        graph = parse("input %x: f32[4]\n%a = aten.neg(%x)\n%b = aten.neg(%a)\nreturn %b")
        total, other = apply_rules(graph.clone(), RULES), apply_rules(graph.clone(), RULES)
        visits = total.visits
        total.merge(other)
        assert total.applied == {"neg-neg": 2} and total.visits == 2 * visits

    def test_folding_comes_before_rules_and_dead_nodes_before_folding(self) -> None:
        seen = []

        def fold(node: Node, rewriter: Rewriter) -> list | None:
            seen.append(node.op.name)
            return [node.operands[0]] if node.op.name == "aten.abs" else None

        graph = parse("input %x: f32[4]\n%a = aten.abs(%x)\n%d = aten.abs(%a)\n%b = aten.relu(%a)\nreturn %b")
        statistics = apply_rules(graph, RULES, fold=fold)
        assert statistics.folded == 1 and statistics.erased == 1 and seen.count("aten.abs") == 1

    def test_effects_stay(self) -> None:
        graph = parse("input %x: f32[4]\n%a = aten.abs(%x)\n%b = aten.neg(%x)\nreturn %x")
        apply_rules(graph, [], removable=lambda node: node.op.name == "aten.neg")
        assert [n.op.name for n in graph] == ["aten.abs"]


class TestErrors:
    @pytest.mark.parametrize("where", ["check", "rewrite", "guard", "pattern", "fold"])
    def test_the_rule_the_node_and_the_lines_are_named(self, where: str) -> None:
        def explode(*_: object) -> bool:
            raise KeyError("missing thing")

        class Bad(Rule):
            name = "bad"
            pattern = aten.relu(var("x", explode) if where == "pattern" else x)

            def guard(self, match: Match) -> bool:
                return explode() if where == "guard" else True

            def check(self, match: Match) -> str | None:
                return str(explode()) if where == "check" else None

            def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
                explode()
                return None

        graph = parse('input %x: f32[4]\n%z = aten.relu(%x) @ "net.py":7 "act"\nreturn %z')
        fold = explode if where == "fold" else None
        with pytest.raises(RuleError) as caught:
            apply_rules(graph, [Bad()], fold=fold)  # type: ignore[arg-type]
        message = str(caught.value)
        name = "fold" if where == "fold" else "bad"
        assert f"rule '{name}' raised KeyError: 'missing thing'" in message
        assert "test_driver.py:" in message and "%z = aten.relu(%x)" in message and "from net.py:7 act" in message

    def test_a_wrong_operand_inside_a_rule_is_named_too(self) -> None:
        bad = Algebra("shape", aten.relu(x), aten.mm(x, x), EXACT)
        graph = parse("input %x: f32[4]\n%z = aten.relu(%x)\nreturn %z")
        with pytest.raises(RuleError, match="rule 'shape' raised TypeInferenceError"):
            apply_rules(graph, [bad])


def test_provenance_is_recorded_once_for_each_rule() -> None:
    graph = parse('input %x: f32[4]\n%a = aten.neg(%x) @ "m.py":1 "n"\n%b = aten.abs(%a) @ "m.py":2 "a"\nreturn %b')
    apply_rules(graph, RULES)
    (node,) = graph
    assert str(node.location) == "m.py:2 a <- abs-neg"


def test_names_follow_the_replacement() -> None:
    graph = parse("input %x: f32[4]\n%a = aten.neg(%x)\n%head = aten.abs(%a)\nreturn %head")
    apply_rules(graph, RULES)
    assert graph.outputs[0].name == "head"


def test_a_root_far_above_a_late_change_is_tried_again() -> None:
    """`%n` may be rewritten only once its dead second user is gone, and that is found out after the root was tried."""

    class Alone(Rule):
        name = "alone"
        pattern = aten.neg(x)

        def check(self, match: Match) -> str | None:
            uses = match.root.results[0].num_uses
            return None if uses == 1 else f"the result has {uses} uses"

        def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
            return rewriter.create("aten.abs", match["x"]).result

    far = Algebra("far", aten.sigmoid(aten.relu(aten.tanh(aten.abs(x)))), aten.exp(x), Contract.LOSSY)
    graph = parse(
        "input %x: f32[4]\n%n = aten.neg(%x)\n%t = aten.tanh(%n)\n%r = aten.relu(%t)\n%s = aten.sigmoid(%r)\n"
        "%dead = aten.cos(%n)\nreturn %s"
    )
    statistics = apply_rules(graph, [Alone(), far])
    assert [n.op.name for n in graph] == ["aten.exp"]
    assert [(d.rule, d.reason) for d in statistics.declined] == [("alone", "the result has 2 uses")]
