"""Models of PyTorch Hub repositories: local and cached ones, run only if they are trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import graphopt
from graphopt.cli import app
from graphopt.errors import GraphOptError
from graphopt.model_source import resolve_model

HUBCONF = '''
dependencies = ["torch"]
import torch
from helper_of_the_repository import WIDTH

open({mark!r}, "a").write("x")


def small(width=WIDTH):
    """A small network."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(width, 4), torch.nn.ReLU()).eval()


def with_inputs():
    return small(), (torch.ones(2, WIDTH),)


def broken():
    raise ValueError("no weights")


def number():
    return 3
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "helper_of_the_repository.py").write_text("WIDTH = 8\n")
    (folder / "hubconf.py").write_text(HUBCONF.format(mark=str(tmp_path / "ran")))
    return folder


def was_run(repository: Path) -> bool:
    return (repository.parent / "ran").exists()


def test_load_at_the_first_call_and_with_inputs(repository: Path) -> None:
    for entry in ("small", "with_inputs"):
        loaded = graphopt.load(f"hub:{repository}:{entry}", target="eager", trust=True)
        assert loaded.is_captured == (entry == "with_inputs")
        torch.manual_seed(0)
        linear = torch.nn.Linear(8, 4)
        x = torch.randn(2, 8)
        torch.testing.assert_close(loaded(x), linear(x).relu().detach())


def test_nothing_runs_without_trust(repository: Path) -> None:
    with pytest.raises(GraphOptError, match=r"runs the code of .*hubconf.py.*trust=True .*--trust"):
        graphopt.load(f"hub:{repository}:small")
    with pytest.raises(GraphOptError, match="trust"):
        resolve_model(f"hub:{repository}:small")
    assert not was_run(repository)


def test_a_cached_repository_by_its_name(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(repository.parent))
    repository.rename(repository.parent / "owner_name_main")
    loaded = graphopt.load("hub:owner/name:with_inputs", target="eager", trust=True)
    assert loaded(torch.ones(2, 8)).shape == (2, 4)
    (repository.parent / "owner_name_main").rename(repository.parent / "owner_name_v1.0")
    source = resolve_model("hub:owner/name:v1.0:with_inputs", trust=True)
    assert source.args[0].shape == (2, 8)
    with pytest.raises(GraphOptError, match=r"is not in PyTorch's cache.*downloads nothing"):
        graphopt.load("hub:owner/other:small", trust=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:{0}:smal", "Unknown entry 'smal'. Did you mean 'small'"),
        ("hub:{0}:broken", "no weights"),
        ("hub:{0}:number", "must give a module"),
        ("hub:{0}", "names no model|no such hub repository"),
        ("hub:/nowhere/at/all:small", "no such hub repository"),
        ("hub:{1}:small", "has no hubconf.py"),
        ("hub:{0}:small", "without example inputs"),
    ],
)
def test_bad_names(repository: Path, name: str, message: str) -> None:
    with pytest.raises(GraphOptError, match=message):
        resolve_model(name.format(repository, repository.parent), trust=True)


def test_command_line(repository: Path, tmp_path: Path) -> None:
    run = CliRunner()
    name, output = f"hub:{repository}:small", tmp_path / "small.onnx"
    refused = run.invoke(app, ["compile", name, "-o", str(output), "--value", "input=f32[2, 8]"])
    assert refused.exit_code != 0 and not was_run(repository) and not output.exists()
    done = run.invoke(app, ["compile", name, "-o", str(output), "--value", "input=f32[2, 8]", "--trust"])
    assert done.exit_code == 0, done.output
    assert graphopt.compile(output, target="onnxruntime")(torch.ones(2, 8)).shape == (2, 4)


@pytest.mark.parametrize("text", ["input=f33[2]", "input=abc", "input", "x=f32[1]", "input=missing.npy"])
def test_bad_values(repository: Path, text: str) -> None:
    with pytest.raises(GraphOptError, match="--value"):
        resolve_model(f"hub:{repository}:small", [text], trust=True)


def test_values_of_each_kind(repository: Path) -> None:
    name = f"hub:{repository}:small"
    assert resolve_model(name, ["input=[[1.0, 2.0]]"], trust=True).kwargs["input"].tolist() == [[1.0, 2.0]]
    ids = resolve_model(name, ["input=i64[1, 3]"], trust=True).kwargs["input"]
    assert ids.dtype is torch.int64 and ids.shape == (1, 3)
