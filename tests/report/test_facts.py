"""The facts behind the page: tables of a graph, skeletons, changes of passes, the roofline, files."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import nn

import graphopt
from graphopt.analysis import CostModel
from graphopt.errors import GraphOptError, SerializationError
from graphopt.html_report import Peaks, graph_facts, html_page, read_report, skeleton, write_report
from graphopt.html_report.measured import measure, node_seconds
from graphopt.ir import Graph, walk
from graphopt.ops import parse
from graphopt.passmanager import PassManager, Provenance
from graphopt.testing.generate import graphs
from tests.report.reports import report_of, transformer

BRANCH = """
graph main {
  input %p: bool[]
  input %x: f32[2]
  %y: f32[2] = higher_order.cond(%p, %x) [
    graph yes {
      input %a: f32[2]
      %b: f32[2] = aten.neg(%a)
      return %b
    }
    graph no {
      input %c: f32[2]
      %d: f32[2] = aten.abs(%c)
      return %d
    }
  ]
  %z: f32[2] = aten.relu(%y)
  return %z
}
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x + 0))).mean((2, 3)))


def compiled(**options: object) -> graphopt.CompiledModel:
    torch.manual_seed(0)
    return graphopt.compile(Net().eval(), (torch.ones(2, 1, 6, 6),), target="eager", **options)  # type: ignore[arg-type]


def check_facts(graph: Graph, facts: dict) -> None:
    """Hold the tables against the graph itself."""
    nodes = list(walk(graph))
    numbers = {node: number for number, node in enumerate(nodes)}
    costs = CostModel(facts["sizes"])
    for number, node in enumerate(nodes):
        assert facts["tables"]["op"][facts["op"][number]] == node.op.name
        assert facts["tables"]["scope"][facts["scope"][number]] == node.location.scope
        assert [facts["tables"]["type"][t] for t in facts["types"][number]] == [repr(r.type) for r in node.results]
        assert facts["flops"][number] == costs.node(node).flops
        for operand, value in zip(facts["operands"][number], node.inputs, strict=True):
            if value.producer is not None:
                assert operand == numbers[value.producer]
            else:
                assert facts["values"][-1 - operand]["type"] == repr(value.type)
    assert len(facts["outputs"]) == len(graph.returned)


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_tables_say_what_the_graph_is(graph: Graph) -> None:
    facts = graph_facts(graph)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    check_facts(graph, facts)
    check_facts(graph, graph_facts(skeleton(graph)) | {"sizes": facts["sizes"]})


def test_nodes_of_regions_know_their_owner() -> None:
    facts = graph_facts(parse(BRANCH))
    assert facts["name"] == ["y", "b", "d", "z"] and facts["parent"] == [-1, 0, 0, -1]
    assert facts["operands"][3] == [0]


def test_a_report_keeps_no_weights_alive() -> None:
    model = Net().eval()
    weight = weakref.ref(model.norm.weight)
    fast = graphopt.compile(model, (torch.ones(2, 1, 6, 6),), target="eager", trainable=False)
    assert fast.report.before is not None
    del model
    gc.collect()
    assert weight() is None
    assert all(v.constant.tensor.is_meta for v in fast.report.before.constants.values())
    assert "batch_norm" in fast.report.to_html()


def test_to_dict_has_everything() -> None:
    fast = compiled(dynamic_shapes="batch")
    facts = json.loads(fast.report.to_json())
    assert facts["format"] == 1 and facts["model"] == "Net" and facts["engine"] == "eager"
    assert len(facts["graphs"]["after"]["op"]) == len(fast.graph)
    assert "aten.batch_norm" in facts["graphs"]["before"]["tables"]["op"]
    assert facts["graphs"]["before"]["sizes"] == {"batch": 2}
    kept = [record for record in facts["passes"]["passes"] if record["status"] == "kept"]
    assert all(record["changes"] for record in kept if record["applied"])
    rules = next(record for record in facts["passes"]["passes"] if record["name"] == "canonicalize")["rules"]
    assert rules["add-zero"]["applied"] == 1 and rules["add-zero"]["attempts"] >= rules["add-zero"]["matches"] >= 1


def test_measured_reports() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.ones(2, 1, 6, 6)
    fast = graphopt.compile(model, (x,), target="eager", instruments=[Provenance()])
    measure(fast, model, (x,), rounds=1, peaks=Peaks(1e11, 1e10))
    facts = fast.report.to_dict()
    assert [row["name"] for row in facts["measured"]] == ["original", "eager"]
    assert {row["name"] for row in facts["attribution"]["nodes"]} >= {fast.graph.nodes[-1].result.name}
    assert any("rule 'batch-norm-into-previous', application 1" in line for line in facts["histories"]["batch_norm"])
    for graph in facts["graphs"].values():
        assert len(graph["seconds"]) == len(graph["op"]) and all(second >= 0 for second in graph["seconds"])
    text = _terminal(fast.report)
    for expected in ("latency", "error over passes", "fold-batch-norm", "never fired", "batch-norm-into-previous"):
        assert expected in text


def _terminal(report: object) -> str:
    from rich.console import Console

    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.rich())  # type: ignore[attr-defined]
    return console.export_text()


def test_time_of_nodes_in_regions() -> None:
    graph = parse(BRANCH)
    seconds = node_seconds(graph, [torch.tensor(True), torch.ones(2)], rounds=2)
    assert len(seconds) == 4 and seconds[1] > 0 and seconds[2] == 0  # the branch that was not taken


def test_errors_need_the_history() -> None:
    fast = compiled()
    with pytest.raises(GraphOptError, match="Provenance"):
        measure(fast, Net().eval(), (torch.ones(2, 1, 6, 6),), rounds=1)


# Changes


def test_a_pass_that_changed_nothing_has_no_diff() -> None:
    report = report_of(transformer(40))
    record = report.passes.record("dead-code")
    assert record.changed == bool(record.changes)


def test_long_diffs_are_cut() -> None:
    record = report_of(transformer(4000)).passes.record("canonicalize")
    assert 400 <= len(record.changes) <= 403 and record.changes[-1] == "…"


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_diffs_account_for_every_node(graph: Graph) -> None:
    """Nodes before − lines removed + lines added = nodes after."""
    history = Provenance()
    result, report = PassManager("canonicalize,dead-code", validate=False, instruments=[history]).run(graph)
    signs = [line[0] for record in report.kept for line in record.changes if " = " in line]
    if all(len(record.changes) < 400 for record in report.kept):
        before = sum(1 for node in walk(graph) if node.results)
        after = sum(1 for node in walk(result) if node.results)
        assert before - signs.count("-") + signs.count("+") == after


# Roofline


def test_attainable_speed() -> None:
    peaks = Peaks(100.0, 10.0)
    assert peaks.attainable(1000, 10) == 100  # compute sets the pace
    assert peaks.attainable(10, 10) == 10  # memory does
    assert peaks.seconds(1000, 10) == 10 and peaks.seconds(10, 1000) == 100


# Files


def test_pages_and_json_are_written_and_read_back(tmp_path: Path) -> None:
    fast = compiled()
    fast.report.peaks = Peaks(1e11, 1e10)
    for name in ("a.html", "b.json"):
        fast.report.save(tmp_path / name)
    facts = read_report(tmp_path / "b.json")
    assert facts == json.loads(fast.report.to_json())
    assert (tmp_path / "a.html").read_text() == html_page(facts) == fast.report.to_html()
    fast.save(tmp_path / "model.gopt")
    assert read_report(tmp_path / "model.gopt") == facts
    write_report(graphopt.load(tmp_path / "model.gopt").report.to_dict(), tmp_path / "again.html")
    assert "fold-batch-norm" in (tmp_path / "again.html").read_text()


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    report = report_of(transformer(20))
    with pytest.raises(GraphOptError, match=r"suffix must be \.html or \.json"):
        report.save(tmp_path / "report.pdf")
    with pytest.raises(SerializationError, match="cannot read"):
        read_report(tmp_path / "absent.json")
    for text, message in (("{", "no JSON"), ("[]", "no report"), ('{"passes": {}, "format": 99}', "later graphopt")):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(SerializationError, match=message):
            read_report(tmp_path / "bad.json")
    graphopt.serialization.save_graph(transformer(20), tmp_path / "graph.gopt")
    with pytest.raises(SerializationError, match="a graph alone"):
        read_report(tmp_path / "graph.gopt")


def test_pages_hold_no_address_and_no_markup_of_names() -> None:
    page = html_page(report_of(transformer(20), "</script><script>alert(1)</script>").to_dict())
    assert "<script>alert" not in page and page.count("<script") == 2
    for address in ("http://", "https://", "url(", "@import"):
        assert address not in page
    assert "default-src 'none'" in page and "connect-src" not in page
