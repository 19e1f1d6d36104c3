"""The report: data, JSON, text and the rich view."""

from __future__ import annotations

import json
import math

import torch

from graphopt.analysis import graph_cost
from graphopt.passmanager import ErrorSummary, PassContext, PassManager, Report, pass_
from graphopt.passmanager.decorators import rewrite
from graphopt.passmanager.report_text import quantity, table
from graphopt.rewrite import Contract, aten, var
from tests.passmanager.models import context, halve_weights, mlp, nothing, relu_once, split_linear

x = var("x")


@rewrite(aten.relu(x), contract=Contract.BITWISE)
def drop_relu(x):
    return x


@rewrite(aten.layer_norm(x, ...), contract=Contract.BITWISE)
def reluctant(x):
    return "the norm is needed"


@pass_(contract=Contract.BITWISE)
def talkative(graph, rewriter):
    yield "looked, and found nothing"


def report() -> Report:
    passes = [nothing, talkative, reluctant, relu_once, drop_relu, split_linear, halve_weights.with_options(bits=5)]
    return PassManager(passes, budget=0.5).run(mlp(), context()).report


def test_before_and_after_are_those_of_the_graphs() -> None:
    graph = mlp()
    result, found = PassManager([relu_once, split_linear]).run(graph, context(batch=5))
    assert found.before == graph_cost(graph, {"N": 5}) and found.after == graph_cost(result, {"N": 5})
    first, second = found.records
    assert first.before.nodes == 5 and first.after.nodes == second.before.nodes == 4 and second.after.nodes == 6
    assert first.after.flops == found.before.flops - 5 * 16
    assert found.before.parameters == 16 * 8 + 16 + 4 * 16 + 4


def test_json_has_everything_and_no_infinities() -> None:
    data = json.loads(report().to_json())
    assert data["pipeline"] == "nothing,talkative,reluctant,relu-once,drop-relu,split-linear,halve-weights{bits=5}"
    statuses = ["no change", "no change", "no change", "kept", "rolled back", "kept", "kept"]
    assert [p["status"] for p in data["passes"]] == statuses
    assert data["passes"][1]["notes"] == ["looked, and found nothing"]
    declined = data["passes"][2]["declined"][0]
    assert declined["reason"] == "the norm is needed" and "model.py:14" in declined["examples"][0]
    assert data["passes"][3]["applied"]["relu-once"] == 1 and data["passes"][3]["error"]["sqnr"] == "inf"
    assert "promises to be bitwise" in data["passes"][4]["reason"]
    assert data["passes"][5]["error"]["float64"] < 1e-9
    assert data["total_error"]["relative_rms"] > 1e-4 and data["samples"] == 2 and data["model_runs"] > 6
    assert data["before"]["nodes"] == 5 and data["after"]["nodes"] == 6


def test_the_text_is_a_table_with_remarks_below() -> None:
    text = str(report())
    lines = text.splitlines()
    assert lines[0].split() == [
        "pass",
        "status",
        "nodes",
        "parameters",
        "FLOPs",
        "bytes",
        "error",
        "promise",
        "time",
        "checks",
    ]
    assert set(lines[1]) == {"-", " "}
    rows = lines[2:9]
    assert len({len(line) for line in lines[:1] + rows}) <= 2  # trailing blanks are cut
    assert "5 → 4" in rows[3] and "bitwise" in rows[3] and "rolled back" in rows[4]
    assert "halve-weights{bits=5}" in rows[6] and "lossy" in rows[6]
    assert "total: nodes 5 → 6 (+20%)" in text and "SQNR" in text
    assert "talkative: looked, and found nothing" in text
    assert "reluctant: reluctant declined once: the norm is needed, as at %n" in text
    assert "drop-relu: rolled back: pass 'drop-relu' promises to be bitwise" in text


def test_an_empty_report_prints() -> None:
    assert "validation: off" in str(Report()) and json.loads(Report().to_json())["passes"] == []


def test_the_rich_view_shows_the_same_cells() -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report().rich())
    shown = console.export_text()
    assert "relu-once" in shown and "5 → 4" in shown and "rolled back" in shown and "total: nodes" in shown


def test_costs_that_rest_on_assumptions_say_so() -> None:
    text = str(PassManager(nothing, validate=False).run(mlp()).report)
    assert "costs assume N=1" in text


def test_errors() -> None:
    assert ErrorSummary().sqnr == math.inf
    assert abs(ErrorSummary(relative_rms=0.01).sqnr - 40) < 1e-9


def test_quantities() -> None:
    numbers = [0, 7, 999, 9_999, 12_345, 999_499, 1_250_000, 3e9, 4.2e12]
    assert list(map(quantity, numbers)) == ["0", "7", "999", "9999", "12.3k", "999k", "1.25M", "3G", "4.2T"]


def test_columns_without_content_are_left_out() -> None:
    assert table(("pass", "error", "time"), [("a", "", "1"), ("bcd", "", "22")]) == [
        "pass  time",
        "----  ----",
        "a        1",
        "bcd     22",
    ]


def test_records_are_found_by_name() -> None:
    found = report()
    assert found.record("relu-once").changed and [r.name for r in found.rolled_back] == ["drop-relu"]
    assert found.applied["split-linear"] == 2


def test_the_error_of_exact_passes_is_that_of_the_graph_before() -> None:
    _, found = PassManager([halve_weights, relu_once]).run(mlp(), PassContext(samples=[[torch.randn(3, 8)]]))
    first, second = (r.error for r in found.records)
    assert first is not None and second is not None and first.max_abs == second.max_abs > 0
