"""The commands `explain`, `attribute`, `diff` and `passes --statistics`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.errors import GraphOptError

LENET = f"{Path(__file__).parents[2] / 'examples' / 'lenet.py'}:build"

GRAPH = """// pipeline: fuse-linear
input %x: f32[2, 3]
constant %w: f32[3, 4] = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 12.0]]
%y = aten.matmul(%x, %w)
%z = aten.exp(%y)
return %z
"""


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def test_explain() -> None:
    text = run("explain", LENET, "--pass", "fold-batch-norm")
    assert text.startswith("fold-batch-norm: 2 applications;")
    assert "batch-norm-into-previous" in text and "lenet.py:" in text
    one = run("explain", LENET, "--pass", "fold-batch-norm", "--node", "conv1")
    assert "was replaced in step" in one or "is gone since step" in one
    found = json.loads(run("explain", LENET, "--pass", "fold-batch-norm", "--json"))
    assert found["pass"] == "fold-batch-norm" and len(found["applied"]) == 2
    with pytest.raises(GraphOptError, match="fold-batch-norms"):
        run("explain", LENET, "--pass", "fold-batch-norms")


def test_explain_a_graph_in_text_form(tmp_path: Path) -> None:
    file = tmp_path / "graph.gir"
    file.write_text(GRAPH)
    text = run("explain", str(file), "--pass", "fuse-linear")
    assert "1 application" in text and "matmul-to-linear" in text


def test_attribute() -> None:
    text = run("attribute", LENET, "--engines", "eager,onnxruntime{optimization=off}")
    assert "against the original in float64" in text
    assert "every value is within the tolerance" in text
    assert "onnxruntime{optimization=off}" in text
    found = json.loads(run("attribute", LENET, "--json", "--target", "eager"))
    assert found["steps"][0]["kind"] == "original" and found["first"] is None


def test_attribute_a_graph_with_made_up_inputs(tmp_path: Path) -> None:
    file = tmp_path / "graph.gir"
    file.write_text(GRAPH)
    assert "fuse-linear" in run("attribute", str(file), "--passes", "fuse-linear")


def test_diff(tmp_path: Path) -> None:
    text = run("diff", LENET, "--target-b", "onnxruntime")
    assert "aten.batch_norm" in text and "corresponding values are within the tolerance" in text
    file, other = tmp_path / "graph.gir", tmp_path / "other.gir"
    file.write_text(GRAPH)
    other.write_text(GRAPH.replace("aten.exp", "aten.sigmoid"))
    found = json.loads(run("diff", str(file), str(other), "--json", code=1))
    assert found["ops"] == {"aten.exp": [1, 0], "aten.sigmoid": [0, 1]}
    assert found["values"][found["first"]]["b"] == "%z = aten.sigmoid(%y)"


def test_diff_in_two_engines() -> None:
    text = run("diff", LENET, "--engine-a", "eager", "--engine-b", "onnxruntime{optimization=off}")
    assert "the same 12 nodes" in text


def test_rule_statistics() -> None:
    text = run("passes", "--statistics", LENET)
    assert text.startswith("rules on ") and "never fired: no pattern matches" in text
    assert "batch-norm-into-previous" in text and "never tried, for no node begins as their patterns do:" in text
