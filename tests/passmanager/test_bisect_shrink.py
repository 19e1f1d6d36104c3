"""Shrinking: parts of graphs compute what the whole did there; what is found is small, fails, and reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.ir import Graph, structurally_equal, verify
from graphopt.ops import parse
from graphopt.passmanager import Budget, PassContext, PassManager, pass_, read_reproducer, write_reproducer
from graphopt.passmanager.decorators import rewrite
from graphopt.passmanager.reproducer import Recipe
from graphopt.passmanager.shrink import Case, shrink
from graphopt.passmanager.shrink.case import part, rebuilt, tidied
from graphopt.passmanager.shrink.grow import neighbourhoods
from graphopt.passmanager.shrink.sizes import cropped, resized, specialized
from graphopt.rewrite import Contract, aten, var
from tests.passmanager.models import context, mlp, relu_once

x = var("x")

NET = """
input %x: f32[N, 4, 64]
parameter %w: f32[64, 64]
%a = aten.neg(%x)
%b = aten.linear(%a, %w)
%s = aten.softmax.int(%b) {dim=-1}
%r = aten.reshape(%s) {shape=(N, 256)}
%t = aten.add.Tensor(%a, %b)
%u = aten.tanh(%t)
%v = aten.sum.dim_IntList(%u) {dim=(1, 2)}
return %r, %v
"""


def case() -> Case:
    graph = parse(NET)
    return Case(graph, [torch.randn(5, 4, 64, generator=torch.Generator().manual_seed(0))])


def test_every_part_computes_what_the_whole_did_there() -> None:
    whole = case()
    nodes = whole.graph.nodes
    values: dict[str, torch.Tensor] = {}
    from graphopt.analysis import Interpreter

    Interpreter(whole.graph, observer=lambda n, results: values.update(zip((r.name for r in n.results), results))).run(
        *whole.inputs
    )  # type: ignore[misc]
    for first in range(len(nodes)):
        for last in range(first + 1, len(nodes) + 1):
            cut = part(whole, set(nodes[first:last]))
            assert cut is not None and len(cut.graph) == last - first
            verify(cut.graph)
            found = run_graph(cut.graph, *cut.inputs)  # type: ignore[misc]
            for value, result in zip(cut.graph.outputs, found):
                torch.testing.assert_close(result, values[value.name], rtol=0, atol=0)


def test_neighbourhoods_grow_to_the_whole() -> None:
    whole = case()
    sizes = [len(cut.graph) for cut in neighbourhoods(whole, [whole.graph.nodes[4]])]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == len(whole.graph)


def test_updates_stay_updates() -> None:
    graph = parse("""
    input %x: f32[4]
    buffer %state: f32[4] = (1.0, 2.0, 3.0, 4.0)
    %a = aten.add.Tensor(%x, %state)
    %n = aten.mul.Scalar(%a) {other=0.5}
    return %a
    update "state" = %n
    """)
    whole = Case(graph, [torch.ones(4)])
    cut = part(whole, {graph.nodes[0]})
    assert cut is not None and cut.graph.mutations == ("state",) and len(cut.graph) == 1
    assert part(whole, {graph.nodes[1]}).graph.mutations == ()  # type: ignore[union-attr]


def test_sizes_shrink_together() -> None:
    small = resized(case(), 64, 2)
    assert small is not None and str(small.graph.nodes[1].result.type) == "f32[N, 4, 2]"
    run_graph(small.graph, *small.inputs)  # type: ignore[misc]
    static = specialized(case(), "N")
    assert static is not None and not static.graph.symbols() and "256" in str(static.graph)
    assert cropped(case(), "N").inputs[0].shape == (2, 4, 64)  # type: ignore[union-attr, index]


def test_indices_stay_within_a_table_that_shrinks() -> None:
    graph = parse("input %i: i64[6]\nparameter %w: f32[40, 8]\n%e = aten.embedding(%w, %i)\nreturn %e")
    small = resized(Case(graph, [torch.tensor([0, 7, 39, 12, 3, 1])]), 40, 2)
    assert small is not None
    run_graph(small.graph, *small.inputs)  # type: ignore[misc]


def test_what_does_not_fit_is_no_candidate() -> None:
    def wider(value):
        return value.type.with_shape((3, 3)) if value.name == "w" else value.type

    assert rebuilt(case(), wider, lambda n: n.attributes, lambda t, old, new: t) is None
    assert tidied(case(), {1}).graph.outputs[0].name == "v"  # type: ignore[union-attr]


@pytest.mark.parametrize("root", range(7))
def test_each_node_is_found_from_anywhere(root: int) -> None:
    whole = case()
    found = shrink(whole, [whole.graph.nodes[root]], lambda c: any("softmax" in n.op.name for n in c.graph))
    assert found.fails and len(found.case.graph) == 1 and found.runs <= 60
    assert str(found.case.graph.nodes[0].result.type) == "f32[1, 1, 1]"


def test_two_nodes_far_apart() -> None:
    lines = [f"%v{i} = aten.{'tanh' if i in (3, 90) else 'neg'}(%{f'v{i - 1}' if i else 'x'})" for i in range(100)]
    graph = parse("\n".join(["input %x: f32[8]", *lines, "return %v99"]))

    def fails(c: Case) -> bool:
        return sum(n.op.name == "aten.tanh" for n in c.graph) == 2

    found = shrink(Case(graph, None), [graph.nodes[3]], fails)
    assert found.fails and len(found.case.graph) == 2 and found.runs <= 200


def test_bounds_of_runs_and_time() -> None:
    found = shrink(case(), [], lambda c: len(c.graph) > 1, runs=3)
    assert found.runs == 3
    assert shrink(case(), [], lambda c: True, seconds=0.0).runs == 0
    assert not shrink(case(), [], lambda c: False).fails


@rewrite(aten.relu(x), contract=Contract.LOSSY)
def gelu_for_relu(x):
    return aten.gelu(x)


@pass_(contract=Contract.BITWISE)
def negate_output(graph, rewriter):
    node = rewriter.create("aten.neg", graph.outputs[0])
    rewriter.set_operand(graph.terminator, 0, node.result)


def failing(passes: object, folder: Path, graph: Graph, given: PassContext | None = None, **options: object) -> str:
    manager = PassManager(passes, on_error="bisect", reproducers=folder, **options)  # type: ignore[arg-type]
    _, report = manager.run(graph, given or context())
    (record,) = report.rolled_back
    return record.reason


def test_a_pass_over_its_budget(tmp_path: Path) -> None:
    reason = failing([relu_once, gelu_for_relu], tmp_path, mlp(), budget=0.01)
    assert "shrunk to 1 node in" in reason and "rule 'gelu-for-relu', application 1" in reason
    read = read_reproducer(tmp_path / "001-gelu-for-relu.gir")
    assert read.budget == Budget(relative_rms=0.01) and "the budget is 0.01" in read.error
    assert [n.op.name for n in read.graph] == ["aten.relu"]


def test_a_pass_without_rules(tmp_path: Path) -> None:
    reason = failing(negate_output, tmp_path, mlp())
    assert "shrunk to 0 nodes in" in reason  # an input that is returned is enough
    read = read_reproducer(tmp_path / "001-negate-output.gir")
    _, report = PassManager(negate_output).run(read.graph, PassContext(samples=read.samples))
    assert report.rolled_back


def test_a_rule_that_raises(tmp_path: Path) -> None:
    @rewrite(aten.relu(x))
    def broken(x):
        raise ValueError("boom")

    reason = failing([relu_once, broken], tmp_path, mlp())
    assert "rule 'broken' raised ValueError: boom" in reason and "shrunk to 1 node in" in reason
    assert [n.op.name for n in read_reproducer(tmp_path / "001-broken.gir").graph] == ["aten.relu"]


def test_explaining_is_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, report = PassManager(negate_output, on_error="no").run(mlp(), context())
    assert "the pass applies no rules" not in report.records[0].reason
    monkeypatch.setenv("GRAPHOPT_ON_ERROR", "bisect")
    _, report = PassManager(negate_output).run(mlp(), context())
    assert "graphopt opt graphopt-reproducers/001-negate-output.gir" in report.records[0].reason
    assert (tmp_path / "graphopt-reproducers" / "001-negate-output.gir").is_file()


def test_the_header_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(gelu_for_relu.as_pass(), "fx", True, Budget(max_abs=0.5, max_rel=0.25), frozenset({"b", "a"}))
    path = write_reproducer(tmp_path, mlp(), recipe, context().samples, "one\ntwo")
    read = read_reproducer(path)
    assert (read.pipeline, read.target, read.trainable, read.error) == ("gelu-for-relu", "fx", True, "one\ntwo")
    assert (read.budget, read.properties) == (recipe.budget, recipe.properties)
    assert structurally_equal(read.graph, mlp()) or str(read.graph) == str(mlp())
    assert torch.equal(read.samples[0][0], context().samples[0][0])
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["001-gelu-for-relu.gir", "001-gelu-for-relu.safetensors"]
