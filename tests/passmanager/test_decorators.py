"""Rules and passes from functions."""

from __future__ import annotations

import pytest
import torch

from graphopt.errors import GraphOptError, UnknownNameError
from graphopt.ir import structurally_equal, verify
from graphopt.ops import parse
from graphopt.passmanager import PassContext, PassManager, Status, pass_
from graphopt.passmanager.decorators import rewrite
from graphopt.rewrite import Contract, aten, constant, either, optional, var
from tests.passmanager.models import context, mlp

x, w, b, y = var("x"), constant("w"), constant("b"), var("y")


def test_a_fusion_with_weights_in_a_few_lines() -> None:
    @rewrite(aten.mul(aten.linear(x, w, b), y))
    def fold_scale(x, w, b, y, rewriter):
        """(x·wᵀ + b)·y = x·(y·w)ᵀ + y·b"""
        if not isinstance(y, float):
            return "the factor is no number"
        scaled = [rewriter.constant_like(v, v.constant.tensor * y) for v in (w, b)]
        return aten.linear(x, *scaled)

    graph = parse(
        "input %x: f32[N, 8]\nparameter %w: f32[4, 8]\nparameter %b: f32[4]\n%h = aten.linear(%x, %w, %b)\n"
        "%z = aten.mul.Scalar(%h) {other=0.3}\n%q = aten.mul.Tensor(%z, %z)\nreturn %q"
    )
    result, report = PassManager([fold_scale, "dead-code"]).run(graph, context())
    assert [n.op.name for n in result] == ["aten.linear", "aten.mul.Tensor"]
    assert report.applied["fold-scale"] == 1 and report.records[0].promise == "reassociating"
    assert len(result.constants) == 2


def test_what_the_pattern_does_not_bind_is_none() -> None:
    @rewrite(aten.add(optional(aten.relu, x, ...), either(aten.neg(y), y)), contract=Contract.BITWISE)
    def look(x, y, match, rewriter):
        seen.append((x, y, match.root.op.name, rewriter.graph))
        return None

    seen: list = []
    graph = parse("input %x: f32[4]\ninput %y: f32[4]\n%r = aten.relu(%x)\n%z = aten.add.Tensor(%r, %y)\nreturn %z")
    look(graph)
    assert [s[2] for s in seen] == ["aten.add.Tensor"] and seen[0][0].name == "x"


def test_several_patterns_and_results() -> None:
    @rewrite(aten.neg(x), aten.abs(x), contract=Contract.LOSSY)
    def drop_sign(x):
        return [x]

    graph = parse("input %x: f32[4]\n%a = aten.neg(%x)\n%b = aten.abs(%a)\nreturn %b")
    assert len(drop_sign(graph)) == 0


def test_a_reason_declines_and_takes_back_what_was_built() -> None:
    @rewrite(aten.relu(x), contract=Contract.BITWISE)
    def hesitate(x, rewriter):
        rewriter.create("aten.neg", x)
        rewriter.constant(torch.ones(3))
        return "on second thoughts"

    graph = mlp()
    result, report = PassManager(hesitate, verify="full").run(graph, context())
    record = report.records[0]
    assert record.status is Status.NO_CHANGE and structurally_equal(result, graph)
    assert [(d.rule, d.reason, d.count) for d in record.declined] == [("hesitate", "on second thoughts", 2)]
    assert "model.py:12 act" in "".join(record.declined[0].examples)


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(GraphOptError, match="takes 'z', but its pattern binds x"):
        rewrite(aten.relu(x))(lambda z: z)
    with pytest.raises(GraphOptError, match="takes patterns of operators"):
        rewrite(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(GraphOptError, match="takes patterns of operators"):
        rewrite()

    @rewrite(aten.relu(x))
    def returns_a_number(x):
        return 3

    _, report = PassManager(returns_a_number).run(mlp())
    assert "returned 3; return a value" in report.records[0].reason


def test_a_replacement_of_another_type_is_declined() -> None:
    @rewrite(aten.relu(x))
    def to_double(x):
        return aten.to(x, "f64") if False else aten.unsqueeze(x, 0)

    _, report = PassManager(to_double).run(mlp())
    assert "the type would change" in report.records[0].declined[0].reason


def test_function_passes_take_options_and_context_and_make_notes() -> None:
    seen = []

    @pass_(name="count-ops", contract=Contract.BITWISE)
    def count(graph, rewriter, *, prefix="aten", context: PassContext):
        seen.append(context.target)
        yield f"{sum(n.op.name.startswith(prefix) for n in graph)} operators"

    _, report = PassManager(count.with_options(prefix="aten.relu")).run(mlp(), PassContext(target="onnx"))
    assert seen == ["onnx"] and report.records[0].notes == ["2 operators"]
    assert report.pipeline == "count-ops{prefix=aten.relu}"
    with pytest.raises(UnknownNameError, match="Did you mean 'prefix'"):
        count.with_options(prefx="x")


def test_decorated_functions_are_passes_by_hand_too() -> None:
    @pass_
    def drop_relus(graph, rewriter):
        for node in graph:
            if node.op.name == "aten.relu":
                rewriter.replace(node, [node.operands[0]])

    graph = mlp()
    result = drop_relus(graph)
    verify(result)
    assert len(result) == 3 and len(graph) == 5 and drop_relus.contract is Contract.REASSOCIATING
