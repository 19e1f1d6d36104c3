"""Patterns: each kind, both orders, uses, defaults, and what they bind; against brute force where there is one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.ir import Graph, Node, Value
from graphopt.ops import parse
from graphopt.rewrite import Match, aten, constant, either, optional, uniform_value, var
from graphopt.rewrite.pattern import OpPattern

x, y, z = var("x"), var("y"), var("z")


def root_of(text: str, tensors: dict[str, torch.Tensor] | None = None) -> Node:
    """The node that makes the (first) output."""
    node = parse(text, tensors).outputs[0].producer
    assert node is not None
    return node


def match(pattern: OpPattern, text: str, tensors: dict[str, torch.Tensor] | None = None) -> Match | None:
    root = root_of(text, tensors)
    found = Match(root)
    return found if pattern.match_node(root, found) else None


def names(found: Match | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {k: v.name if isinstance(v, Value) else v for k, v in found.bindings.items()}


HEAD = "input %x: f32[4]\ninput %y: f32[4]\n"


class TestOperators:
    def test_any_overload_or_one(self) -> None:
        tensor, scalar = (
            HEAD + "%z = aten.add.Tensor(%x, %y)\nreturn %z",
            HEAD + "%z = aten.add.Scalar(%x) {other=2}\nreturn %z",
        )
        assert names(match(aten.add(x, y), tensor)) == {"x": "x", "y": "y"}
        assert names(match(aten.add(x, y), scalar)) == {"x": "x", "y": 2}
        assert match(aten.add.Tensor(x, y), tensor) and not match(aten.add.Tensor(x, y), scalar)
        assert not match(aten.sub(x, y), tensor)

    def test_arguments_that_are_not_written_have_their_defaults(self) -> None:
        text = HEAD + "%z = aten.add.Tensor(%x, %y) {alpha=2}\nreturn %z"
        assert not match(aten.add(x, y), text)
        assert match(aten.add(x, y, ...), text)
        assert names(match(aten.add(x, y, alpha=z), text)) == {"x": "x", "y": "y", "z": 2}
        assert not match(aten.add(x, y, alpha=1), text)

    def test_an_optional_operand_that_is_not_written_is_absent(self) -> None:
        head = "input %x: f32[2, 4]\nparameter %w: f32[3, 4]\nparameter %b: f32[3]\n"
        bare, full = head + "%y = aten.linear(%x, %w)\nreturn %y", head + "%y = aten.linear(%x, %w, %b)\nreturn %y"
        assert match(aten.linear(x, y), bare) and not match(aten.linear(x, y), full)
        assert match(aten.linear(x, y, ...), full) and match(aten.linear(x, y, None), bare)
        assert not match(aten.linear(x, y, None), full)
        assert names(match(aten.linear(x, y, z), bare)) == {"x": "x", "y": "w", "z": None}
        assert not match(aten.linear(x, y, constant("b")), bare)

    def test_an_argument_that_the_schema_lacks_never_matches(self) -> None:
        text = HEAD + "%z = aten.relu(%x)\nreturn %z"
        assert not match(aten.relu(x, y), text) and not match(aten.relu(x, slope=1), text)

    def test_results_by_number(self) -> None:
        text = "input %x: f32[4, 4]\n%v, %i = aten.topk(%x) {k=2}\n%a = aten.neg(%v)\n%b = aten.neg(%i)\nreturn %RESULT"
        values = aten.topk(x, ...)
        indices = OpPattern("aten.topk", (x,), rest=True, result=1)
        for name, good, bad in (("a", values, indices), ("b", indices, values)):
            assert match(aten.neg(good), text.replace("RESULT", name))
            assert not match(aten.neg(bad), text.replace("RESULT", name))

    def test_a_named_operator_binds_its_node(self) -> None:
        found = match(aten.neg(aten.relu(x).named("act")), HEAD + "%r = aten.relu(%x)\n%z = aten.neg(%r)\nreturn %z")
        assert found is not None and found.node("act").op.name == "aten.relu"
        assert [n.op.name for n in found.nodes] == ["aten.neg", "aten.relu"]

    def test_variadic_operands_are_bound_together(self) -> None:
        found = match(aten.cat(x, ...), HEAD + "%z = aten.cat(%x, %y)\nreturn %z")
        assert found is not None and [v.name for v in found["x"]] == ["x", "y"]


class TestCommutativity:
    @pytest.mark.parametrize("swap", [False, True])
    def test_both_orders(self, swap: bool) -> None:
        operands = "%r, %y" if not swap else "%y, %r"
        text = HEAD + f"%r = aten.relu(%x)\n%z = aten.add.Tensor({operands})\nreturn %z"
        for pattern in (aten.add(aten.relu(x), y), aten.add(y, aten.relu(x))):
            assert names(match(pattern, text)) == {"x": "x", "y": "y"}

    @pytest.mark.parametrize("swap", [False, True])
    def test_only_where_operands_commute(self, swap: bool) -> None:
        operands = "%r, %y" if not swap else "%y, %r"
        text = HEAD + f"%r = aten.relu(%x)\n%z = aten.sub.Tensor({operands})\nreturn %z"
        assert (match(aten.sub(aten.relu(x), y), text) is not None) is not swap

    def test_a_scaled_sum_does_not_commute(self) -> None:
        text = HEAD + "%r = aten.relu(%x)\n%z = aten.add.Tensor(%y, %r) {alpha=2}\nreturn %z"
        assert match(aten.add(y, aten.relu(x), ...), text)
        assert not match(aten.add(aten.relu(x), y, ...), text)

    def test_backtracking_leaves_nothing_behind(self) -> None:
        # The first order binds x before it fails.
        text = HEAD + "%a = aten.neg(%y)\n%r = aten.relu(%x)\n%z = aten.add.Tensor(%a, %r)\nreturn %z"
        assert names(match(aten.add(aten.relu(x), aten.neg(x)), text)) is None
        assert names(match(aten.add(aten.relu(x), aten.neg(y)), text)) == {"x": "x", "y": "y"}


class TestVariables:
    def test_a_name_that_occurs_twice_is_one_value(self) -> None:
        assert match(aten.mul(x, x), HEAD + "%z = aten.mul.Tensor(%x, %x)\nreturn %z")
        assert not match(aten.mul(x, x), HEAD + "%z = aten.mul.Tensor(%x, %y)\nreturn %z")

    @pytest.mark.parametrize(
        ("first", "second", "same"), [("2", "2", True), ("2", "3", False), ("0.0", "-0.0", False), ("1", "1.0", False)]
    )
    def test_a_name_that_occurs_twice_is_one_number(self, first: str, second: str, same: bool) -> None:
        text = (
            HEAD + f"%a = aten.mul.Scalar(%x) {{other={first}}}\n%z = aten.mul.Scalar(%a) {{other={second}}}\nreturn %z"
        )
        assert (match(aten.mul(aten.mul(x, y), y), text) is not None) is same

    def test_conditions(self) -> None:
        positive = var("a", lambda v: isinstance(v, int) and v > 0)
        for number, fits in ((3, True), (-3, False)):
            text = HEAD + f"%z = aten.mul.Scalar(%x) {{other={number}}}\nreturn %z"
            assert (match(aten.mul(x, positive), text) is not None) is fits

    def test_stored_tensors(self) -> None:
        text = "input %x: f32[4]\nconstant %c: f32[4]\n%z = aten.mul.Tensor(%x, %c)\nreturn %z"
        assert names(match(aten.mul(x, constant("w")), text)) == {"x": "x", "w": "c"}
        assert not match(aten.sub(constant("w"), x), text.replace("mul", "sub"))


class TestNumbers:
    @pytest.mark.parametrize(
        ("tensor", "number", "same"),
        [
            (torch.zeros(4), 0, True),
            (torch.zeros(()), 0, True),
            (-torch.zeros(4), 0, False),
            (torch.tensor([0.0, -0.0, 0.0, 0.0]), 0, False),
            (torch.tensor([1.0, 1.0, 1.0, 2.0]), 1, False),
            (torch.full((4,), float("nan")), float("nan"), False),
            (torch.full((4,), float("inf")), float("inf"), True),
            (torch.full((4,), 2.5), 2.5, True),
            (torch.ones(4, dtype=torch.int64), 1, True),
            (torch.ones(1 << 17), 1, False),
        ],
    )
    def test_uniform_tensors(self, tensor: torch.Tensor, number: float, same: bool) -> None:
        shape = ", ".join(map(str, tensor.shape))
        kind = "i64" if tensor.dtype is torch.int64 else "f32"
        text = f"input %x: {kind}[{shape}]\nconstant %c: {kind}[{shape}]\n%z = aten.mul.Tensor(%x, %c)\nreturn %z"
        graph = parse(text, {"c": tensor})
        node = next(iter(graph))
        assert aten.mul(x, number).match_node(node, Match(node)) is same
        found = uniform_value(graph.constants["c"])
        assert (found is not None and found == number) is same or number == 0

    @pytest.mark.parametrize(
        ("text", "number", "same"), [("1", 1, True), ("1.0", 1, True), ("true", 1, False), ("-0.0", 0, False)]
    )
    def test_attributes(self, text: str, number: float, same: bool) -> None:
        found = match(aten.mul(x, number), HEAD + f"%z = aten.mul.Scalar(%x) {{other={text}}}\nreturn %z")
        assert (found is not None) is same

    def test_what_the_graph_updates_is_no_number(self) -> None:
        from graphopt.rewrite import Algebra, Contract, apply_rules

        rule = Algebra("mul-one", aten.mul(x, 1), x, Contract.BITWISE)
        text = "input %x: f32[4]\nbuffer %n: f32[4] = (1.0, 1.0, 1.0, 1.0)\n%y = aten.mul.Tensor(%x, %n)\nreturn %y"
        assert apply_rules(parse(text), [rule]).applied == {"mul-one": 1}
        updated = parse(text + '\nupdate "n" = %y')
        assert apply_rules(updated, [rule]).applied == {}


class TestChoices:
    def test_optional_prefers_the_operator(self) -> None:
        pattern = aten.neg(optional(aten.relu, x))
        assert names(match(pattern, HEAD + "%r = aten.relu(%x)\n%z = aten.neg(%r)\nreturn %z")) == {"x": "x"}
        assert names(match(pattern, HEAD + "%r = aten.abs(%x)\n%z = aten.neg(%r)\nreturn %z")) == {"x": "r"}

    def test_either_takes_the_first_that_matches_and_forgets_the_rest(self) -> None:
        pattern = aten.neg(either(aten.add(x, aten.relu(y)), aten.add(x, z)))
        text = HEAD + "%a = aten.add.Tensor(%x, %y)\n%z = aten.neg(%a)\nreturn %z"
        assert names(match(pattern, text)) == {"x": "x", "z": "y"}


class TestUses:
    TEXT = HEAD + "%r = aten.relu(%x)\n%z = aten.neg(%r)\nreturn %z"

    def test_a_single_use_counts_outputs(self) -> None:
        pattern = aten.neg(aten.relu(x).once)
        assert match(pattern, self.TEXT)
        assert not match(pattern, self.TEXT + ", %r")
        assert match(aten.neg(aten.relu(x)), self.TEXT + ", %r")


# Brute force: every way to match a small pattern tree against a graph, orders and all, by plain recursion.

OPS = {"neg": 1, "relu": 1, "add.Tensor": 2, "mul.Tensor": 2, "sub.Tensor": 2}
COMMUTES = {"add.Tensor", "mul.Tensor"}

trees = st.recursive(
    st.sampled_from(["x", "y", "z"]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["neg", "relu"]), inner),
        st.tuples(st.sampled_from(["add.Tensor", "mul.Tensor", "sub.Tensor"]), inner, inner),
    ),
    max_leaves=5,
).filter(lambda t: not isinstance(t, str))


def to_pattern(tree: Any) -> Any:
    if isinstance(tree, str):
        return var(tree)
    return OpPattern(f"aten.{tree[0]}", tuple(map(to_pattern, tree[1:])))


def brute_force(tree: Any, value: Value, bound: dict[str, Value]) -> list[dict[str, Value]]:
    """Every binding under which the tree matches the value."""
    if isinstance(tree, str):
        return [{**bound, tree: value}] if bound.get(tree, value) is value else []
    node = value.producer
    if node is None or node.op.name != f"aten.{tree[0]}":
        return []
    orders = itertools.permutations(node.operands) if tree[0] in COMMUTES else [node.operands]
    found = []
    for order in orders:
        states = [bound]
        for inner, operand in zip(tree[1:], order):
            states = [s for state in states for s in brute_force(inner, operand, state)]  # type: ignore[arg-type]
        found += states
    return found


@st.composite
def graphs(draw: Any) -> Graph:
    lines, pool = [HEAD], ["x", "y"]
    for i in range(draw(st.integers(1, 8))):
        op = draw(st.sampled_from(list(OPS)))
        operands = [draw(st.sampled_from(pool[-3:])) for _ in range(OPS[op])]
        lines.append(f"%v{i} = aten.{op}({', '.join('%' + o for o in operands)})\n")
        pool.append(f"v{i}")
    return parse("".join(lines) + f"return %{pool[-1]}")


@settings(deadline=None, max_examples=200)
@given(graphs(), trees)
def test_a_match_is_one_that_brute_force_finds(graph: Graph, tree: Any) -> None:
    pattern = to_pattern(tree)
    for node in graph:
        expected = brute_force(tree, node.results[0], {})
        found = Match(node)
        if pattern.match_node(node, found):
            assert found.bindings in expected
        elif sum(_has_two_orders(t) for t in _subtrees(tree)) <= 1:
            # The matcher commits to the first order that fits each operator; with one choice it is complete.
            assert not expected


def _subtrees(tree: Any) -> list[Any]:
    return [] if isinstance(tree, str) else [tree, *(s for t in tree[1:] for s in _subtrees(t))]


def _has_two_orders(tree: Any) -> bool:
    return tree[0] in COMMUTES
