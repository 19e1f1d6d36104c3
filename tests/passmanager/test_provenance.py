"""Values and nodes are followed from the original graph to the final one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphopt
from graphopt.analysis import Interpreter
from graphopt.calling import CallingConvention
from graphopt.ir import Graph, Node, Value
from graphopt.ops import parse
from graphopt.passmanager import PassManager, Provenance, as_pass, pass_, rewrite
from graphopt.passmanager.instruments import ApplicationLimit
from graphopt.pipelines import resolve_passes
from graphopt.rewrite import Contract, Rule, aten, var
from tests.passmanager.models import context, mlp, nothing, relu_once, split_linear
from tests.zoo import MODELS

x = var("x")


def run(passes: Any, graph: Graph, **options: Any) -> tuple[Provenance, Graph]:
    history = Provenance()
    result, _ = PassManager(passes, instruments=[history, *options.pop("instruments", ())], **options).run(graph)
    return history, result


def names(values: Any) -> list[str]:
    return [value.name for value in values]


def test_values_of_an_unchanged_graph_are_those_of_its_copy() -> None:
    graph = mlp()
    history, result = run([nothing], graph)
    assert [(a.name, b.name) for a, b in history.align(0, 1)] == [
        (n, n) for n in ("x", "w1", "b1", "w2", "b2", "h", "a", "r", "n", "y")
    ]
    assert history.graphs == [graph, result]
    assert history.history(result.nodes[0]).original is graph.nodes[0]
    assert history.history(result.nodes[0]).events == ()


def test_steps_compose() -> None:
    graph = mlp()
    history, result = run([relu_once, nothing, split_linear], graph)
    assert [step.pass_.name for step in history.steps] == ["relu-once", "split-linear"]
    h, a, r, n, y = (node.result for node in graph)
    pairs = dict(history.align(0, 2))
    assert all(pairs[old] is not None for old in (h, r, n, y)) and a not in pairs
    assert pairs[y] is result.outputs[0] and result.outputs[0].producer.name == "aten.add.Tensor"
    assert history.origin(result.outputs[0]) == (y,)
    assert history.image(y) is result.outputs[0] and history.image(y, 0) is y
    assert dict(history.align(1, 2)) == dict(history.steps[1].pairs())
    with pytest.raises(IndexError, match="0 to 2"):
        history.align(0, 3)


def test_history_names_line_node_and_applications() -> None:
    graph = mlp()
    history, result = run([relu_once, split_linear], graph)
    found = history.history(result.nodes[-1])
    assert found.original is graph.nodes[-1] and found.location.line == 15
    (event,) = found.events
    assert (event.step, event.pass_, event.rule) == (2, "split-linear", "split-linear")
    assert event.node == "%y = aten.linear(%n, %w2, %b2)"
    assert str(found).splitlines() == [
        "model.py:15 fc2",
        "  → %y = aten.linear(%n, %w2, %b2)",
        f"  → step 2, pass 'split-linear', rule 'split-linear', application {event.number}, "
        "at %y = aten.linear(%n, %w2, %b2)",
    ]


def test_history_follows_nodes_that_rules_made() -> None:
    @rewrite(aten.relu(x))
    def to_clamp(x):
        return aten.clamp_min(x, 0.0)

    @rewrite(aten.clamp_min(x, 0.0))
    def to_maximum(x):
        return aten.hardtanh(x, 0.0, 1e30)

    graph = parse("input %x: f32[4]\n%y = relu(%x)\nreturn %y")
    history, result = run(as_pass([to_clamp, to_maximum], "both"), graph, validate=False)
    found = history.history(result.nodes[0])
    assert [event.rule for event in found.events] == ["to-clamp", "to-maximum"]
    assert [event.number for event in found.events] == [1, 2] and found.original is graph.nodes[0]


def test_numbers_are_those_of_an_application_limit() -> None:
    limit = ApplicationLimit(None)
    history, _ = run("canonicalize", mlp(), instruments=[limit])
    assert limit.count == len(history.steps[0].applications) > 0
    one = ApplicationLimit(1)
    history, _ = run([split_linear], mlp(), instruments=[one])
    assert [a.number for a in history.steps[0].applications] == [1]


def test_several_values_may_become_one() -> None:
    graph = parse("input %x: f32[4]\n%a = neg(%x)\n%b = neg(%x)\n%c = add.Tensor(%a, %b)\nreturn %c")
    history, result = run("common-subexpressions", graph)
    assert names(history.origin(result.nodes[0].result)) == ["a", "b"]
    application = history.steps[0].replaced_by(graph.nodes[1].result)
    assert application is not None and application.rule == "common-subexpressions"
    assert history.steps[0].replaced_by(graph.nodes[0].result) is None


def test_a_value_of_another_type_is_not_aligned() -> None:
    @pass_(contract=Contract.LOSSY)
    def narrow(graph: Graph, rewriter: Any) -> None:
        node = graph.nodes[0]
        rewriter.stand_at(node)
        made = rewriter.create("aten.sum.dim_IntList", node.operands[0], [0], False)
        rewriter.replace(node, made.results)

    graph = parse("input %x: f32[4, 4]\n%a = neg(%x)\n%b = sum(%a)\nreturn %b")
    history, _ = run([narrow], graph)
    assert names(old for old, _ in history.steps[0].pairs()) == ["x", "b"]


def test_a_value_that_comes_back_is_itself() -> None:
    @pass_(contract=Contract.BITWISE)
    def there_and_back(graph: Graph, rewriter: Any) -> None:
        a, b = (node.result for node in graph.nodes[:2])
        rewriter.replace_value(a, b)
        rewriter.replace_value(b, a)

    graph = parse("input %x: f32[4]\n%a = neg(%x)\n%b = neg(%x)\n%c = add.Tensor(%a, %b)\nreturn %c")
    history, result = run([there_and_back], graph)
    assert history.origin(result.nodes[0].result) == tuple(node.result for node in graph.nodes[:2])


def test_a_pass_that_is_rolled_back_is_no_step() -> None:
    @rewrite(aten.relu(x), contract=Contract.BITWISE)
    def wrong(x):
        return aten.neg(x)

    history = Provenance()
    result, _ = PassManager([wrong, split_linear], instruments=[history]).run(mlp(), context())
    assert [step.pass_.name for step in history.steps] == ["split-linear"]
    assert history.steps[0].after is result


def test_changes_in_place_are_told_from_new_operands() -> None:
    class Alpha(Rule):
        name = "alpha"
        contract = Contract.LOSSY
        pattern = aten.leaky_relu(x, ...)

        def rewrite(self, match: Any, rewriter: Any) -> None:
            rewriter.set_attributes(match.root, negative_slope=0.5)

        def guard(self, match: Any) -> bool:
            return match.root.attr("negative_slope") != 0.5

    graph = parse("input %x: f32[4]\n%a = leaky_relu(%x)\n%b = neg(%a)\nreturn %b")
    history, result = run([Alpha()], graph)
    step = history.steps[0]
    first, second = result.nodes
    assert step.is_changed_in_place(graph.nodes[0], first) and not step.is_changed_in_place(graph.nodes[1], second)
    assert [e.rule for e in history.history(first).events] == ["alpha"]
    assert history.history(second).events == ()


def test_regions_are_followed() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, lambda x: x.relu().relu() + 1, lambda x: x - 1, (x,))

    graph = graphopt.trace(Model(), (torch.ones(3),))
    history, _ = run([nothing], graph)
    inner = [(old, new) for old, new in history.steps[0].pairs() if old.producer and old.producer.graph is not graph]
    assert len(inner) >= 4 and all(old.producer.op is new.producer.op for old, new in inner)


def values_in_float64(graph: Graph, inputs: list[Any]) -> dict[Value, torch.Tensor]:
    found: dict[Value, torch.Tensor] = dict(zip(graph.inputs, inputs))

    def note(node: Node, results: Any) -> None:
        found.update({v: r for v, r in zip(node.results, results) if isinstance(r, torch.Tensor)})

    Interpreter(graph, float64=True, contiguous=True, observer=note).run(*inputs)
    return found


@pytest.mark.parametrize("name", ["hf-resnet", "hf-bert", "hf-mobilenet-v2", "lstm"])
def test_aligned_values_of_real_models_are_equal(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = graphopt.trace(entry.build(), args, kwargs)
    history, result = run(resolve_passes("default", "cpu", False), graph, validate=False)
    inputs = CallingConvention(graph).flatten(args, kwargs)
    before, after = values_in_float64(graph, inputs), values_in_float64(result, inputs)
    compared = 0
    for old, new in history.align(0, len(history.steps)):
        if old in before and new in after and before[old].is_floating_point():
            scale = before[old].abs().max().item() if before[old].numel() else 0.0
            torch.testing.assert_close(after[new].double(), before[old].double(), rtol=0, atol=1e-4 * scale)
            compared += 1
    assert compared >= len(result) // 2
    for node in result:
        found = history.history(node)
        assert found.original is not None or found.events
