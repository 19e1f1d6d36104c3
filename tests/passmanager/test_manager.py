"""The pass manager: drafts, loops, statuses, and cost linear in the graph."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value, structurally_equal, verify
from graphopt.ir.graph import clone_graph
from graphopt.ops import parse
from graphopt.passmanager import (
    ApplicationLimit,
    Pass,
    PassContext,
    PassManager,
    PassResult,
    Status,
    as_pass,
    fixpoint,
    pass_,
)
from graphopt.passmanager.decorators import rewrite
from graphopt.rewrite import Algebra, Contract, Rewriter, aten, var
from tests.passmanager.models import context, mlp, nothing, relu_once, split_linear

x = var("x")


@pytest.fixture
def clones(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts clones by the number of nodes that they copied."""
    sizes: list[int] = []

    def counted(graph: Graph, values: dict[Value, Value] | None = None) -> Graph:
        sizes.append(len(graph))
        return clone_graph(graph, values)

    monkeypatch.setattr(Graph, "clone", counted)
    return sizes


def chain(length: int, op: str = "aten.neg") -> Graph:
    lines = [f"%v{i} = {op}(%{f'v{i - 1}' if i else 'x'})" for i in range(length)]
    return parse("\n".join(["input %x: f32[4]", *lines, f"return %v{length - 1}"]))


def test_the_graph_is_left_alone_and_the_result_is_another() -> None:
    graph = mlp()
    text = str(graph)
    result, _ = PassManager([relu_once, split_linear]).run(graph, context())
    assert str(graph) == text and result is not graph and len(result) == 6
    same, report = PassManager(nothing).run(graph, context())
    assert same is not graph and structurally_equal(same, graph) and report.records[0].status is Status.NO_CHANGE


def test_weights_are_shared_not_copied() -> None:
    graph = mlp()
    result, _ = PassManager(relu_once).run(graph, context())
    for name, value in result.constants.items():
        assert value.constant.tensor is graph.constants[name].constant.tensor  # type: ignore[union-attr]


def test_a_draft_is_cloned_only_after_a_change(clones: list[int]) -> None:
    PassManager([nothing, nothing, relu_once, nothing, nothing, split_linear, nothing], validate=False).run(mlp())
    assert clones == [5, 4, 6]


def test_a_failure_costs_one_more_draft(clones: list[int]) -> None:
    @pass_
    def fail(graph, rewriter):
        raise RuntimeError

    PassManager([nothing, fail, nothing], validate=False).run(mlp())
    assert clones == [5, 5]


def test_a_loop_runs_until_nothing_changes() -> None:
    @pass_(contract=Contract.BITWISE)
    def peel(graph, rewriter):
        """Cancel the first pair of neighbouring negations."""
        for node in graph:
            inner = node.operands[0].producer
            if inner is not None:
                rewriter.replace(node, [inner.operands[0]])
                return

    graph = chain(6)
    result, report = PassManager([fixpoint(peel, "dead-code")]).run(graph)
    assert len(result) == 0
    assert [r.where for r in report.records] == [f"fixpoint[{i}]" for i in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert [r.status for r in report.records[-2:]] == [Status.NO_CHANGE, Status.NO_CHANGE]
    _, report = PassManager([fixpoint(peel, "dead-code", limit=2)]).run(graph)
    assert any("still changed the graph in its last round (2)" in note for note in report.notes)


def test_loops_by_hand_and_in_the_manager_agree() -> None:
    double = as_pass(Algebra("neg-neg", aten.neg(aten.neg(x)), x, Contract.BITWISE))
    loop = fixpoint(double)
    graph = chain(7)
    assert structurally_equal(loop(graph), PassManager(loop).run(graph).graph)


def test_passes_get_what_the_context_says() -> None:
    seen: list[PassContext] = []

    class Look(Pass):
        def run(self, graph: Graph, context: PassContext) -> PassResult:
            seen.append(context)
            return PassResult(False)

    given = PassContext(target="onnx", trainable=True, samples=context().samples, properties={"a"})
    PassManager(Look()).run(mlp(), given)
    assert (seen[0].target, seen[0].trainable, seen[0].samples, seen[0].properties) == (
        "onnx",
        True,
        given.samples,
        {"a"},
    )


def test_a_pass_that_overstates_is_put_right_in_full_mode() -> None:
    class Boast(Pass):
        contract = Contract.BITWISE

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            return PassResult(True)

    _, report = PassManager(Boast(), verify="full").run(mlp(), context())
    assert report.records[0].status is Status.NO_CHANGE and "left it as it was" in report.records[0].notes[0]
    assert report.model_runs == 0


def test_choices_are_checked() -> None:
    for options in ({"validate": "sometimes"}, {"on_failure": "ignore"}, {"verify": "half"}):
        with pytest.raises(GraphOptError, match="takes one of"):
            PassManager(nothing, **options)  # type: ignore[arg-type]


def test_the_cycle_collector_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []

    @pass_
    def look(graph, rewriter):
        states.append(gc.isenabled())

    for enabled in (True, False):
        (gc.enable if enabled else gc.disable)()
        try:
            PassManager(look).run(mlp())
            assert gc.isenabled() is enabled
        finally:
            gc.enable()
    assert states == [False, False]


def test_an_application_limit_stops_rewriting() -> None:
    double = as_pass(Algebra("neg-neg", aten.neg(aten.neg(x)), x, Contract.BITWISE))
    result, _ = PassManager([double], instruments=[ApplicationLimit(2)]).run(chain(9))
    assert len(result) == 5


def test_an_application_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    double = as_pass(Algebra("neg-neg", aten.neg(aten.neg(x)), x, Contract.BITWISE))
    monkeypatch.setenv("GRAPHOPT_BISECT_MAX", "1")
    assert len(PassManager([double]).run(chain(9)).graph) == 7
    monkeypatch.setenv("GRAPHOPT_BISECT_MAX", "many")
    with pytest.raises(GraphOptError, match="GRAPHOPT_BISECT_MAX takes a number"):
        PassManager([double]).run(chain(9))


class FakeEngine:
    """An engine whose speed is the number of nodes."""

    name = "fake"

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    def missing(self) -> str | None:
        return None

    def unsupported(self, graph: Graph) -> str | None:
        return self.reason

    def load(self, graph: Graph) -> Any:
        import time

        class Loaded:
            def run(self, inputs: Any) -> list[Any]:
                time.sleep(2e-4 * len(graph))
                return []

        return Loaded()


def test_a_pass_that_must_pay_is_reverted_if_it_does_not() -> None:
    class Lengthen(Pass):
        contract = Contract.BITWISE
        must_speed_up = True

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            rewriter = Rewriter(graph, context.listeners)
            for _ in range(8):
                rewriter.set_operand(graph.terminator, 0, rewriter.create("aten.clone", graph.outputs[0]).result)
            return PassResult(True)

    class Shorten(Pass):
        contract = Contract.BITWISE
        must_speed_up = True

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            return as_pass(relu_once).run(graph, context)

    given = context()
    given.engine = FakeEngine()
    _, report = PassManager([Lengthen(), Shorten()], on_failure="raise").run(mlp(), given)
    assert [r.status for r in report.records] == [Status.ROLLED_BACK, Status.KEPT]
    assert "no faster: " in report.records[0].reason and "on fake" in report.records[1].notes[0]
    given.engine = FakeEngine("it cannot")
    _, report = PassManager(Lengthen()).run(mlp(), given)
    assert report.records[0].status is Status.KEPT and "cannot run the graph: it cannot" in report.records[0].notes[0]
    _, report = PassManager(Lengthen()).run(mlp(), context())
    assert "its speed was not measured" in report.records[0].notes[0]


def test_regions_are_verified_too() -> None:
    text = """
    input %p: bool[]
    input %x: f32[4]
    %y = higher_order.cond(%p, %x) [
      graph then {
        input %a: f32[4]
        %b = aten.relu(%a)
        %c = aten.relu(%b)
        return %c
      }
      graph other {
        input %a: f32[4]
        return %a
      }
    ]
    return %y
    """

    @pass_(contract=Contract.BITWISE)
    def break_inside(graph, rewriter, *, context):
        region = next(iter(graph)).regions[0]
        inner = Rewriter(region, context.listeners)
        first, second = region.nodes
        inner.move_before(second, first)

    import torch

    samples = PassContext(samples=[[torch.tensor(True), torch.randn(4)]])
    _, report = PassManager(break_inside).run(parse(text), samples)
    assert report.records[0].status is Status.ROLLED_BACK and "not defined before its use" in report.records[0].reason


class TestLinear:
    """Work is counted, not timed: visits of nodes by verification, cloning and rewriting grow with the graph."""

    @staticmethod
    def counts(length: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
        copied: list[int] = []
        verified: list[Node] = []
        from graphopt.ir import verifier

        check = verifier._check_schema
        with monkeypatch.context() as patch:
            patch.setattr(
                Graph, "clone", lambda graph, values=None: copied.append(len(graph)) or clone_graph(graph, values)
            )
            patch.setattr(verifier, "_check_schema", lambda node: verified.append(node) or check(node))
            rules = [
                as_pass(Algebra("mul-one", aten.mul(x, 1), x, Contract.BITWISE)),
                as_pass(Algebra("neg-neg", aten.neg(aten.neg(x)), x, Contract.BITWISE)),
                nothing,
                as_pass(Algebra("relu-relu", aten.relu(aten.relu(x)), aten.relu(x), Contract.BITWISE)),
            ]
            graph = chain(3)
            rewriter = Rewriter(graph)
            value = graph.inputs[0]
            for _ in range(length // 4):
                value = rewriter.create("aten.mul.Scalar", value, 1).result
                value = rewriter.create("aten.neg", rewriter.create("aten.neg", value).result).result
                value = rewriter.create("aten.sigmoid", value).result
            graph.set_outputs([value])
            copied.clear()
            verified.clear()
            result, report = PassManager([*rules, "dead-code"], validate=False).run(graph)
        verify(result)
        visits = sum(record.applied.get(name, 0) for record in report.records for name in record.applied)
        return sum(copied), len(verified), visits

    def test_work_grows_with_the_graph_and_no_faster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small, large = self.counts(400, monkeypatch), self.counts(4000, monkeypatch)
        for few, many in zip(small, large):
            assert 8 <= many / few <= 12
        copied, verified, _ = large
        assert copied <= 3 * 4000 and verified <= 4 * 4000


@pytest.mark.parametrize("validate", ["each", "end", False])
def test_results_do_not_depend_on_the_checks(validate: Any) -> None:
    passes = [relu_once, split_linear, "dead-code"]
    result = PassManager(passes, validate=validate).run(mlp(), context()).graph
    assert structurally_equal(result, PassManager(passes, verify="full").run(mlp(), context()).graph)


def test_rewriting_twice_gives_the_same_text() -> None:
    first, second = (str(PassManager([relu_once, split_linear]).run(mlp(), context()).graph) for _ in range(2))
    assert first == second


@rewrite(aten.relu(x), contract=Contract.BITWISE)
def unused_rule(x):
    return None


def test_a_rule_that_returns_nothing_leaves_the_graph_alone() -> None:
    _, report = PassManager(unused_rule).run(mlp(), context())
    assert report.records[0].status is Status.NO_CHANGE and not report.records[0].declined
