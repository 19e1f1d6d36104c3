"""What passes require, conflict with, establish and preserve: wrong orders are refused with the right one."""

from __future__ import annotations

from typing import ClassVar

import pytest

from graphopt.errors import PassError
from graphopt.ir import Graph
from graphopt.passmanager import Pass, PassContext, PassManager, PassResult, Status, as_pass, fixpoint
from graphopt.rewrite import Contract, Rewriter
from tests.passmanager.models import mlp, nothing, relu_once


class Step(Pass):
    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False)


class Calibrate(Step):
    establishes: ClassVar[frozenset[str]] = frozenset({"calibrated"})


class Quantize(Step):
    requires: ClassVar[frozenset[str]] = frozenset({"calibrated"})
    establishes: ClassVar[frozenset[str]] = frozenset({"quantized"})


class Prune(Step):
    conflicts: ClassVar[frozenset[str]] = frozenset({"quantized"})
    preserves: ClassVar[frozenset[str] | None] = frozenset()


class Lower(Step):
    conflicts: ClassVar[frozenset[str]] = frozenset({"calibrated"})
    requires: ClassVar[frozenset[str]] = frozenset({"calibrated"})


def test_the_right_order_runs() -> None:
    context = PassContext()
    PassManager([Prune(), Calibrate(), Quantize()]).run(mlp(), context)
    assert context.properties == {"calibrated", "quantized"}


def test_a_wrong_order_is_refused_with_the_right_one() -> None:
    with pytest.raises(PassError) as caught:
        PassManager([Calibrate(), Quantize(), nothing, Prune()]).run(mlp())
    message = str(caught.value)
    assert "'prune' cannot run on a graph that is 'quantized', and 'quantize' comes before it" in message
    assert "the right order is: calibrate,nothing,prune" not in message
    order = message.split("the right order is: ")[1].split(",")
    assert order.index("prune") < order.index("calibrate") < order.index("quantize") and "nothing" in order


def test_nothing_runs_before_the_order_is_checked() -> None:
    ran = []

    class Record(Step):
        def run(self, graph: Graph, context: PassContext) -> PassResult:
            ran.append(1)
            return PassResult(False)

    with pytest.raises(PassError):
        PassManager([Record(), Quantize()]).run(mlp())
    assert not ran


def test_a_missing_step_is_named() -> None:
    with pytest.raises(
        PassError, match="'quantize' needs a graph that is 'calibrated'; add a pass that makes it 'calibrated'"
    ):
        PassManager(Quantize()).run(mlp())


def test_no_order_at_all() -> None:
    with pytest.raises(PassError, match="no order of these passes works"):
        PassManager([Lower(), Calibrate()]).run(mlp())


def test_what_is_not_preserved_is_gone() -> None:
    with pytest.raises(PassError, match="the right order is: prune,calibrate,quantize"):
        PassManager([Calibrate(), Prune(), Quantize()]).run(mlp())


def test_properties_live_in_the_context_from_run_to_run() -> None:
    context = PassContext(properties={"calibrated"})
    PassManager(Quantize()).run(mlp(), context)
    with pytest.raises(PassError, match="cannot run on a graph that is 'quantized'; no order"):
        PassManager(Prune()).run(mlp(), context)


def test_a_run_that_fails_leaves_the_properties_alone() -> None:
    class Fails(Quantize):
        def run(self, graph: Graph, context: PassContext) -> PassResult:
            raise RuntimeError("no")

    context = PassContext()
    with pytest.raises(PassError):
        PassManager([Calibrate(), Fails()], on_failure="raise").run(mlp(), context)
    assert context.properties == set()


def test_a_second_run_with_every_check_starts_from_the_same_properties() -> None:
    class Breaks(Prune):
        def run(self, graph: Graph, context: PassContext) -> PassResult:
            rewriter = Rewriter(graph, context.listeners)
            rewriter.set_attributes(next(n for n in graph if n.op.name == "aten.relu"))
            graph.nodes[-1].operands[0]._uses.clear()  # type: ignore[union-attr]
            return PassResult(True)

    context = PassContext()
    _, report = PassManager([Breaks(), Calibrate(), Quantize()], validate=False).run(mlp(), context)
    assert [r.status for r in report.records] == [Status.ROLLED_BACK, Status.NO_CHANGE, Status.NO_CHANGE]
    assert context.properties == {"calibrated", "quantized"}


def test_a_loop_skips_what_its_first_round_bars() -> None:
    class Touch(Step):
        establishes: ClassVar[frozenset[str]] = frozenset({"quantized"})
        contract = Contract.BITWISE

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            return as_pass(relu_once).run(graph, context)

    _, report = PassManager(fixpoint(Prune(), Touch())).run(mlp())
    statuses = [r.status for r in report.records]
    assert statuses == [Status.NO_CHANGE, Status.KEPT, Status.SKIPPED, Status.NO_CHANGE]


def test_a_pass_whose_need_was_rolled_back_is_skipped() -> None:
    class BadCalibrate(Calibrate):
        def run(self, graph: Graph, context: PassContext) -> PassResult:
            raise RuntimeError("no data")

    _, report = PassManager([BadCalibrate(), Quantize(), nothing]).run(mlp())
    assert [r.status for r in report.records] == [Status.ROLLED_BACK, Status.SKIPPED, Status.NO_CHANGE]
    assert "needs a graph that is 'calibrated'" in report.records[1].reason
