"""Instruments and the reproducer: what they see, print and write."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graphopt.errors import GraphOptError, SerializationError
from graphopt.ir import structurally_equal
from graphopt.ops import parse
from graphopt.passmanager import (
    BaseInstrument,
    DumpDirectory,
    Instrument,
    Journal,
    PassContext,
    PassManager,
    PrintAfterChange,
    Progress,
    Statistics,
    Timing,
    pass_,
    read_reproducer,
)
from graphopt.passmanager.decorators import rewrite
from graphopt.passmanager.instruments import environment_instruments
from graphopt.rewrite import Contract, aten, var
from tests.passmanager.models import context, mlp, nothing, relu_once, split_linear

x = var("x")


@rewrite(aten.relu(x), contract=Contract.BITWISE)
def drop_relu(x):
    return x


class Record(BaseInstrument):
    def __init__(self) -> None:
        self.events: list[str] = []

    def start(self, pipeline, graph):
        self.events.append(f"start {pipeline} {len(graph)}")

    def before_pass(self, pass_, graph):
        self.events.append(f"before {pass_.name} {len(graph)}")

    def after_pass(self, record, before, after):
        self.events.append(f"after {record.name} {record.status.value} {len(before)} {len(after)}")

    def finish(self, report):
        self.events.append(f"finish {len(report.records)}")


def test_the_order_of_calls() -> None:
    record = Record()
    assert isinstance(record, Instrument)
    PassManager([nothing, relu_once, drop_relu], instruments=[record]).run(mlp(), context())
    assert record.events == [
        "start nothing,relu-once,drop-relu 5",
        "before nothing 5",
        "after nothing no change 5 5",
        "before relu-once 5",
        "after relu-once kept 5 4",
        "before drop-relu 4",
        "after drop-relu rolled back 4 4",
        "finish 3",
    ]


def test_finish_is_called_when_a_pass_raises() -> None:
    record = Record()
    with pytest.raises(GraphOptError):
        PassManager(drop_relu, instruments=[record], on_failure="raise").run(mlp(), context())
    assert record.events[-1] == "finish 1"


def test_print_after_change_is_a_diff_of_what_was_kept() -> None:
    out = io.StringIO()
    PassManager([nothing, relu_once, drop_relu], instruments=[PrintAfterChange(out)]).run(mlp(), context())
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["--- before", "+++ after relu-once"] and out.getvalue().count("+++") == 1
    assert [line for line in lines if line.startswith("-  ")] == [
        "-  %a: f32[N, 16] = aten.relu(%h)",
        "-  %r: f32[N, 16] = aten.relu(%a)",
    ]


def test_dumps_are_numbered_and_parse_back(tmp_path: Path) -> None:
    PassManager([nothing, relu_once, split_linear], instruments=[DumpDirectory(tmp_path / "dump")]).run(
        mlp(), context()
    )
    names = sorted(p.name for p in (tmp_path / "dump").iterdir())
    assert names == [
        "002-relu-once.after.txt",
        "002-relu-once.before.txt",
        "003-split-linear.after.txt",
        "003-split-linear.before.txt",
    ]
    graph = mlp()
    tensors = {n: v.constant.tensor for n, v in graph.constants.items() if v.constant is not None}
    assert structurally_equal(parse((tmp_path / "dump" / names[1]).read_text(), tensors), graph)


@pytest.mark.unchecked_passes
def test_what_was_undone_is_dumped_too(tmp_path: Path) -> None:
    @rewrite(aten.relu(x))
    def relu_away(x):
        return aten.neg(x)

    PassManager([relu_away, relu_once], instruments=[DumpDirectory(tmp_path)], on_error="no").run(mlp(), context())
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "001-relu-away.before.txt",
        "001-relu-away.rejected.txt",
        "002-relu-once.after.txt",
        "002-relu-once.before.txt",
    ]
    assert "aten.neg" in (tmp_path / "001-relu-away.rejected.txt").read_text()


def test_an_unwritable_dump_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GraphOptError, match="cannot write dumps"):
        PassManager(nothing, instruments=[DumpDirectory(tmp_path / "file" / "inner")]).run(mlp())


def test_statistics_and_timing_add_up_over_passes() -> None:
    statistics, timing = Statistics(), Timing()
    PassManager([relu_once, relu_once, split_linear], instruments=[statistics, timing]).run(mlp(), context())
    rule = statistics.rules["relu-once"]
    assert (rule.applied, rule.matches) == (1, 1) and rule.attempts >= 1
    assert statistics.rules["split-linear"].applied == 2
    assert set(timing.seconds) == {"relu-once", "split-linear"} and all(sum(t) > 0 for t in timing.seconds.values())
    assert "relu-once" in str(statistics) and "relu-once" in str(timing)


def test_the_journal_logs_passes_rollbacks_and_mutations(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="graphopt"):
        PassManager([relu_once, drop_relu], instruments=[Journal()]).run(mlp(), context())
    text = caplog.text
    assert "relu-once: kept 5 → 4 nodes" in text and "insert" in text and "replace %r = aten.relu" in text
    assert any(r.levelno == logging.WARNING and "drop-relu: rolled back" in r.message for r in caplog.records)


def test_progress_draws_nothing_when_disabled_and_stops() -> None:
    progress = Progress(disable=True)
    PassManager([nothing, relu_once], instruments=[progress]).run(mlp(), context())


def test_progress_shows_passes_validation_and_calibration() -> None:
    from rich.console import Console

    @pass_(contract=Contract.BITWISE)
    def calibrated(graph, rewriter, context):
        assert [list(context.calibration), list(context.calibration)] == [[1, 2, 3]] * 2
        return False

    console = Console(file=io.StringIO(), record=True, width=120, force_terminal=True)
    progress = Progress(console=console)
    PassManager([nothing, calibrated, relu_once], instruments=[progress]).run(
        mlp(), replace(context(), calibration=[1, 2, 3])
    )
    with progress.stage("capture"):
        pass
    text = console.export_text()
    assert "passes " in text and "3/3" in text and "passes: relu-once" in text
    assert "validation, model runs" in text and text.count("calibration") >= 2 and "capture" in text


def test_calibration_is_left_as_it_is_without_progress() -> None:
    given = iter([1])

    @pass_(contract=Contract.BITWISE)
    def looks(graph, rewriter, context):
        assert context.calibration is given
        return False

    PassManager(looks, on_failure="raise").run(mlp(), replace(context(), calibration=given))


def test_instruments_from_the_environment(tmp_path: Path) -> None:
    found = environment_instruments(
        {"GRAPHOPT_LOG": "info", "GRAPHOPT_BISECT_MAX": "3", "GRAPHOPT_DUMP": str(tmp_path)}
    )
    assert [type(i).__name__ for i in found] == ["Journal", "ApplicationLimit", "DumpDirectory"]
    assert environment_instruments({}) == []
    with pytest.raises(GraphOptError, match="GRAPHOPT_LOG takes a logging level"):
        environment_instruments({"GRAPHOPT_LOG": "loud"})


class TestReproducer:
    def test_a_failure_can_be_run_again_from_its_file(self, tmp_path: Path) -> None:
        graph = mlp()
        _, report = PassManager([relu_once, drop_relu], reproducers=tmp_path).run(graph, context())
        reason = report.records[1].reason
        path = tmp_path / "001-drop-relu.gir"
        assert f"run again: graphopt opt {path}" in reason
        found = read_reproducer(path)
        assert found.pipeline == "drop-relu"
        expected = PassManager(relu_once).run(graph, context()).graph
        assert structurally_equal(found.graph, expected)
        assert torch.equal(found.samples[0][0], context().samples[0][0])
        _, again = PassManager(drop_relu).run(found.graph, PassContext(samples=found.samples))
        assert again.records[0].reason.splitlines()[0] == reason.splitlines()[0]

    def test_the_file_says_how_to_run_it_and_what_went_wrong(self, tmp_path: Path) -> None:
        PassManager(drop_relu, reproducers=tmp_path).run(mlp(), context())
        lines = (tmp_path / "001-drop-relu.gir").read_text().splitlines()
        command = "graphopt opt 001-drop-relu.gir --plugin tests.passmanager.test_instruments"
        assert lines[0] == f"// graphopt reproducer; run it with: {command}"
        assert lines[1:3] == ["// pipeline: drop-relu", "// target: cpu"]
        assert lines[3].startswith("// error: pass 'drop-relu' promises")

    def test_each_failure_has_its_own_file(self, tmp_path: Path) -> None:
        for _ in range(2):
            PassManager(drop_relu, reproducers=tmp_path).run(mlp(), context())
        assert sorted(p.stem for p in tmp_path.glob("*.gir")) == ["001-drop-relu", "002-drop-relu"]

    def test_tied_and_sliced_weights(self, tmp_path: Path) -> None:
        base = torch.randn(32, 8)
        text = (
            "input %x: f32[N, 8]\nparameter %a: f32[16, 8]\nparameter %b: f32[16, 8]\n%h = aten.linear(%x, %a)\n"
            "%g = aten.linear(%x, %b)\n%r = aten.relu(%h)\n%y = aten.add.Tensor(%r, %g)\nreturn %y"
        )
        graph = parse(text, {"a": base[:16], "b": base[8:24]})
        PassManager(drop_relu, reproducers=tmp_path).run(graph)
        assert structurally_equal(read_reproducer(tmp_path / "001-drop-relu.gir").graph, graph)

    def test_the_folder_may_come_from_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GRAPHOPT_REPRODUCERS", str(tmp_path / "new"))
        PassManager(drop_relu).run(mlp(), context())
        assert (tmp_path / "new" / "001-drop-relu.gir").exists()

    def test_files_that_cannot_be_written_or_read(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SerializationError, match="cannot write a reproducer"):
            PassManager(drop_relu, reproducers=tmp_path / "file").run(mlp(), context())
        with pytest.raises(SerializationError, match="cannot read the reproducer"):
            read_reproducer(tmp_path / "missing.gir")


def test_listeners_of_the_context_hear_everything() -> None:
    from graphopt.passmanager.guard import Touched

    touched = Touched()
    given = context()
    given.listeners.append(touched)

    @pass_(contract=Contract.BITWISE)
    def rebuild(graph, rewriter):
        node = next(n for n in graph if n.op.name == "aten.relu")
        with rewriter.at(node, "rebuild"):
            rewriter.replace(node, rewriter.create("aten.relu", node.operands[0]).results)

    PassManager(rebuild).run(mlp(), given)
    assert touched.removals == 1 and any(n.op.name == "aten.relu" for n in touched.nodes)
