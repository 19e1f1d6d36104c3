"""Reports and progress bars from the command line and from `compile`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import graphopt
from graphopt.cli import app
from graphopt.errors import GraphOptError

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), (torch.randn(2, 8),)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "report_net.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "report_net", raising=False)
    return tmp_path


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "150", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def facts_of(page: Path) -> dict[str, Any]:
    """The facts in a page."""
    found = re.search(r'<script type="application/json" id="facts">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_page_from_compile_and_from_the_saved_model(folder: Path) -> None:
    run("compile", "report_net.py:build", "-o", "net.gopt", "-t", "eager", "--report", "net.html", "--measure")
    facts = facts_of(folder / "net.html")
    assert facts["model"] == "Sequential" and len(facts["measured"]) == 2
    assert facts["attribution"]["nodes"] and facts["peaks"]["flops"] > 0
    assert len(facts["graphs"]["before"]["seconds"]) == 3
    run("report", "net.gopt", "-o", "again.html")
    assert facts_of(folder / "again.html") == facts
    run("report", "net.gopt", "-o", "again.json")
    assert json.loads((folder / "again.json").read_text()) == facts
    run("report", "again.json", "-o", "third.html")
    assert facts_of(folder / "third.html") == facts


def test_a_page_of_passes_over_a_graph(folder: Path) -> None:
    run("compile", "report_net.py:build", "-o", "net.txt", "-t", "fx", "-p", "none")
    run("opt", "net.txt", "-p", "canonicalize", "--report", "opt.html")
    assert set(facts_of(folder / "opt.html")["graphs"]) == {"after"}


def test_a_wrong_suffix_is_told_before_the_work() -> None:
    for command in (
        ("compile", "absent.py:build", "-o", "net.gopt", "--report", "report.pdf"),
        ("opt", "absent.txt", "--report", "report.pdf"),
        ("report", "absent.gopt", "-o", "report.pdf"),
    ):
        with pytest.raises(GraphOptError, match=r"suffix must be \.html or \.json"):
            run(*command)


def test_progress_is_shown_when_asked(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval(), torch.ones(1, 4)
    graphopt.compile(model, (x,), target="eager")
    assert capfd.readouterr().err == ""
    graphopt.compile(model, (x,), target="eager", progress=True)
    shown = capfd.readouterr().err
    for title in ("capture", "passes", "engines"):
        assert title in shown


def test_a_compiled_model_measures_itself() -> None:
    model, x = nn.Linear(4, 4).eval(), torch.ones(1, 4)
    fast = graphopt.compile(model, (x,), target="eager")
    fast.measure(model, (x,), rounds=1, errors=False)
    assert fast.report.attribution is None and len(fast.report.node_seconds["after"]) == 1
    assert fast.report.measured[0].name == "original" and fast.report.peaks.bandwidth > 0
