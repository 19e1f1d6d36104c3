"""Thirty planted bugs: each is caught by the check that owns it, traced to its rule and node, and shrunk to a file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.errors import GraphOptError
from graphopt.passmanager.bisection import run_limit
from graphopt.passmanager.registry import registry
from graphopt.passmanager.shrink.search import RUNS, SECONDS
from tests.planted.bugs import BUGS, Bug
from tests.planted.hunt import hunt

pytestmark = pytest.mark.unchecked_passes

VARIABLES = ("GRAPHOPT_VERIFY", "GRAPHOPT_BISECT_MAX", "GRAPHOPT_REPRODUCERS", "GRAPHOPT_ON_ERROR")


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the caller's shell has a say, and no plug-in stays behind."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    for bug in BUGS:
        registry.unregister(bug.pass_.name)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_planted_bug(bug: Bug, tmp_path: Path) -> None:
    found = hunt(bug, tmp_path)
    finding = found.finding
    assert finding is not None, "nothing caught it"
    assert found.others == [], "a pass that is right was blamed"
    assert found.caught_by == bug.check
    culprit, shrunk = finding.culprit, finding.shrunk
    assert culprit is not None and shrunk is not None
    assert found.named, str(finding)
    assert culprit.runs <= culprit.limit == run_limit(culprit.candidates)
    assert shrunk.fails and shrunk.runs <= RUNS and shrunk.seconds <= SECONDS
    assert found.reproducer_nodes <= 10
    _runs_again(bug, finding.command)


def _runs_again(bug: Bug, command: str) -> None:
    """The printed command fails in the same way, and names the same rule and kind of node."""
    program, *arguments = shlex.split(command)
    assert program == "graphopt"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code != 0
    assert isinstance(done.exception, GraphOptError), done.output
    again = done.exception.finding
    assert again is not None and again.check == bug.check
    assert again.culprit is not None and again.culprit.rule == bug.rule
    assert bug.node in again.culprit.node


def test_there_are_enough_of_them_and_each_is_another_mistake() -> None:
    assert len(BUGS) >= 20
    assert len({bug.name for bug in BUGS}) == len({bug.pass_.name for bug in BUGS}) == len(BUGS)
    assert {bug.check for bug in BUGS} >= {"numbers", "graph", "tensors"}
