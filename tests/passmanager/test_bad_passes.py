"""Passes with planted bugs: each is caught, named, and undone; the graph goes on as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graphopt.errors import GraphOptError, PassError, ValidationError
from graphopt.ir import Graph, Node, structurally_equal, verify
from graphopt.ops import parse
from graphopt.passmanager import Pass, PassContext, PassManager, PassResult, Status, pass_
from graphopt.passmanager.decorators import rewrite
from graphopt.rewrite import Contract, Rewriter, aten, var
from tests.passmanager.models import context, mlp, relu_once

x, w, b, shape, weight, bias, eps = map(var, ("x", "w", "b", "shape", "weight", "bias", "eps"))


@rewrite(aten.linear(x, w, b), contract=Contract.REASSOCIATING)
def drop_bias(x, w, b):
    return None if b is None else aten.linear(x, w)


@rewrite(aten.softmax.int(x, -1, ...), contract=Contract.REASSOCIATING)
def swap_axis(x):
    return aten.softmax.int(x, 0)


@rewrite(aten.layer_norm(x, shape, weight, bias, 1e-5, ...), contract=Contract.REASSOCIATING)
def wrong_eps(x, shape, weight, bias):
    return aten.layer_norm(x, shape, weight, bias, 1.1e-5)


@pass_(contract=Contract.BITWISE)
def freeze_batch(graph, rewriter):
    node = next(n for n in graph if n.op.name == "aten.reshape")
    rewriter.set_attributes(node, shape=(5, *node.attr("shape")[1:]))


@pass_(contract=Contract.BITWISE)
def freeze_output(graph, rewriter):
    node = rewriter.create("aten.reshape", graph.outputs[0], (5, 4))
    rewriter.set_operand(graph.terminator, 0, node.result)


@rewrite(aten.relu(x), contract=Contract.BITWISE)
def raise_error(x):
    raise ZeroDivisionError("no such thing")


@rewrite(aten.relu(x), contract=Contract.BITWISE)
def gelu_for_relu(x):
    return aten.gelu(x)


@rewrite(aten.add.Scalar(x, 0, ...), contract=Contract.BITWISE)
def add_zero_as_bitwise(x):
    return x


@pass_(contract=Contract.BITWISE)
def overwrite_weight(graph, rewriter):
    next(iter(graph.constants.values())).constant.tensor.mul_(2)
    rewriter.erase(rewriter.create("aten.relu", graph.inputs[0]))


@pass_(contract=Contract.LOSSY)
def overwrite_behind_the_counter(graph, rewriter):
    next(iter(graph.constants.values())).constant.tensor.data.mul_(2)
    node = rewriter.create("aten.relu", graph.outputs[0])
    rewriter.set_operand(graph.terminator, 0, node.result)


class Broken(Pass):
    """A pass whose `run` is given."""

    contract = Contract.BITWISE

    def __init__(self, run: Callable[[Graph, PassContext], Any], title: str) -> None:
        object.__setattr__(self, "_run", run)
        object.__setattr__(self, "_title", title)

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._title  # type: ignore[attr-defined,no-any-return]

    def options(self) -> dict[str, Any]:
        return {}

    def run(self, graph: Graph, context: PassContext) -> Any:
        return self._run(graph, context)  # type: ignore[attr-defined]


def make_cycle(graph: Graph, context: PassContext) -> PassResult:
    first, second = graph.nodes[:2]
    first.set_operand(0, second.result)
    return PassResult(True)


def forget_use(graph: Graph, context: PassContext) -> PassResult:
    second = graph.nodes[1]
    second._operands[0]._uses.clear()  # type: ignore[union-attr]
    return PassResult(True)


def lie_quietly(graph: Graph, context: PassContext) -> PassResult:
    relu = next(n for n in graph if n.op.name == "aten.relu")
    relu.results[0].replace_all_uses_with(relu.operands[0])  # type: ignore[arg-type]
    graph.erase(relu)
    return PassResult(False)


def lie_with_a_rewriter(graph: Graph, context: PassContext) -> PassResult:
    relu = next(n for n in graph if n.op.name == "aten.relu")
    Rewriter(graph, context.listeners).replace(relu, [relu.operands[0]])  # type: ignore[list-item]
    return PassResult(False)


def drop_output(graph: Graph, context: PassContext) -> PassResult:
    graph.set_outputs([])
    return PassResult(True)


def wrong_type(graph: Graph, context: PassContext) -> PassResult:
    relu = next(n for n in graph if n.op.name == "aten.relu")
    relu.results[0].type = relu.results[0].type.with_shape((1, 2, 3))
    for listener in context.listeners:
        listener.modified(relu)
    return PassResult(True)


SOFTMAX = """
input %x: f32[N, 8]
%y = aten.softmax.int(%x) {dim=-1} @ "model.py":3 "attention"
%z = aten.relu(%y)
%q = aten.relu(%z)
return %q
"""
RESHAPE = """
input %x: f32[N, 8]
%y = aten.reshape(%x) {shape=(N, 2, 4)} @ "model.py":4 "split"
%s = aten.sum.dim_IntList(%y) {dim=(0,)}
%z = aten.relu(%s)
%q = aten.relu(%z)
return %q
"""
ADD_ZERO = """
input %x: f32[N, 8]
%n = aten.neg(%x)
%y = aten.add.Scalar(%n) {other=0.0} @ "model.py":5 "head"
%z = aten.mul.Scalar(%y) {other=2.0}
return %z
"""

CASES = [
    (drop_bias, mlp, ValidationError, ("drop-bias", "application 1", "model.py:11 fc1", "reassociating")),
    (swap_axis, lambda: parse(SOFTMAX), ValidationError, ("swap-axis", "aten.softmax.int", "model.py:3 attention")),
    (wrong_eps, mlp, ValidationError, ("wrong-eps", "aten.layer_norm", "model.py:14 norm")),
    (
        freeze_batch,
        lambda: parse(RESHAPE),
        ValidationError,
        ("freeze-batch", "aten.reshape failed", "model.py:4 split"),
    ),
    (freeze_output, mlp, PassError, ("freeze-output", "was f32[N, 4] and is f32[5, 4]")),
    (
        raise_error,
        mlp,
        PassError,
        ("raise-error", "ZeroDivisionError", "aten.relu", "test_bad_passes.py", "model.py:1"),
    ),
    (gelu_for_relu, mlp, ValidationError, ("gelu-for-relu", "bitwise", "aten.relu", "model.py:1")),
    (add_zero_as_bitwise, lambda: parse(ADD_ZERO), ValidationError, ("add-zero-as-bitwise", "model.py:5 head")),
    (overwrite_weight, mlp, PassError, ("overwrite-weight", "wrote to 'w1' in place")),
    (Broken(make_cycle, "make-cycle"), mlp, PassError, ("make-cycle", "not defined before its use", "fc1")),
    (Broken(forget_use, "forget-use"), mlp, PassError, ("forget-use", "does not list this use", "model.py")),
    (Broken(lie_with_a_rewriter, "lie"), mlp, PassError, ("'lie' says that it changed nothing", "model.py")),
    (Broken(drop_output, "drop-output"), mlp, PassError, ("drop-output", "returned 1 values and returns 0")),
    (Broken(wrong_type, "wrong-type"), mlp, PassError, ("wrong-type", "inference says", "model.py:12")),
    (Broken(lambda g, c: None, "no-result"), mlp, PassError, ("no-result", "must return a PassResult")),
    (Broken(lambda g, c: 1 / 0, "plain-error"), mlp, PassError, ("plain-error", "ZeroDivisionError", "test_bad")),
]
IDS = [case[0].label if hasattr(case[0], "label") else case[0].name for case in CASES]


def sample(graph: Graph) -> PassContext:
    # −0.0 tells x + 0 from x: the sum of −0.0 and 0.0 is 0.0.
    made = context()
    made.samples[0][0][0, 0] = 0.0
    return made


@pytest.mark.parametrize("verify_mode", ["touched", "full"])
@pytest.mark.parametrize(("bad", "make", "kind", "words"), CASES, ids=IDS)
def test_caught_and_rolled_back(bad: Any, make: Any, kind: type, words: tuple[str, ...], verify_mode: Any) -> None:
    graph = make()
    before, text = graph.clone(), str(graph)
    result, report = PassManager([bad, relu_once], verify=verify_mode).run(graph, sample(graph))
    record = report.records[0]
    assert record.status is Status.ROLLED_BACK
    for word in words:
        assert word in record.reason
    assert str(graph) == text and structurally_equal(graph, before)
    verify(result)
    # The pass that follows works on the graph as it was before the bad one.
    expected = PassManager(relu_once).run(before, sample(graph)).graph
    assert structurally_equal(result, expected)


@pytest.mark.parametrize(("bad", "make", "kind", "words"), CASES, ids=IDS)
def test_raised_on_demand(bad: Any, make: Any, kind: type, words: tuple[str, ...]) -> None:
    graph = make()
    text = str(graph)
    with pytest.raises(kind) as caught:
        PassManager(bad, on_failure="raise").run(graph, sample(graph))
    assert isinstance(caught.value, GraphOptError)
    for word in words:
        assert word in str(caught.value)
    assert str(graph) == text


def test_overwritten_weights_are_put_back() -> None:
    graph = mlp()
    values = {name: v.constant.tensor.clone() for name, v in graph.constants.items()}  # type: ignore[union-attr]
    PassManager(overwrite_weight).run(graph, context())
    for name, value in graph.constants.items():
        assert torch.equal(value.constant.tensor, values[name])  # type: ignore[union-attr]


def test_weights_overwritten_behind_the_version_counter_are_found_and_put_back() -> None:
    graph = mlp()
    values = {name: v.constant.tensor.clone() for name, v in graph.constants.items()}  # type: ignore[union-attr]
    _, report = PassManager([relu_once, overwrite_behind_the_counter]).run(graph, context())
    assert [r.status for r in report.records] == [Status.KEPT, Status.ROLLED_BACK]
    assert "wrote to 'w1' in place" in report.records[1].reason
    for name, value in graph.constants.items():
        assert torch.equal(value.constant.tensor, values[name])  # type: ignore[union-attr]


def test_overwritten_weights_that_cannot_be_put_back_always_raise() -> None:
    with pytest.raises(PassError, match=r"(?s)overwrite-weight.*'w1'.*old values are lost"):
        PassManager(overwrite_weight, validate=False).run(mlp())


def test_a_lie_that_no_listener_sees_is_found_in_full_mode_and_named_after_the_end_otherwise() -> None:
    liar = Broken(lie_quietly, "lie-quietly")
    _, report = PassManager([liar], verify="full").run(mlp(), context())
    assert "says that it changed nothing, but 5 nodes and 4 nodes" in report.records[0].reason


def test_a_broken_graph_that_only_the_end_notices_is_traced_to_its_pass() -> None:
    def break_uses_elsewhere(graph: Graph, ctx: PassContext) -> PassResult:
        rewriter = Rewriter(graph, ctx.listeners)
        relu = next(n for n in graph if n.op.name == "aten.relu")
        rewriter.set_attributes(relu)
        last = graph.nodes[-1]
        last._operands[0]._uses.clear()  # type: ignore[union-attr]
        return PassResult(True)

    breaker = Broken(break_uses_elsewhere, "breaker")
    result, report = PassManager([relu_once, breaker], validate=False).run(mlp())
    assert [r.status for r in report.records] == [Status.KEPT, Status.ROLLED_BACK]
    assert any("ran again with every check after each pass" in note for note in report.notes)
    verify(result)


def test_the_guilty_application_is_found_among_many() -> None:
    graph = parse(
        "input %x: f32[8]\n"
        + "".join(
            f'%v{i} = aten.add.Scalar(%{f"v{i - 1}" if i else "x"}) {{other={float(i)}}} @ "m.py":{i} "s{i}"\n'
            for i in range(40)
        )
        + "return %v39"
    )
    other = var("other")
    applied: list[Node] = []

    @rewrite(aten.add.Scalar(x, other), contract=Contract.BITWISE)
    def mostly_right(x, other, match):
        applied.append(match.root)
        wrong = 0.5 if other == 23.0 else 0.0
        return aten.sub.Scalar(x, -other + wrong)

    _, report = PassManager(mostly_right).run(graph)
    reason = report.records[0].reason
    assert "rule 'mostly-right', application 24" in reason and "m.py:23 s23" in reason
