"""The command line: what a new user types, and what they are told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

import graphopt
from graphopt.cli import app
from graphopt.errors import GraphOptError

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x + 0))).mean((2, 3)))

def build():
    return Net().eval(), (torch.ones(2, 1, 6, 6),)

def named():
    return Net().eval(), (), {"x": torch.ones(2, 1, 6, 6)}

def without_inputs():
    class Constant(nn.Module):
        def forward(self):
            return torch.ones(3)
    return Constant(), ()

def wrong():
    return Net()

def raises():
    return 1 / 0

net = Net()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mynet.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    """Run a command that must succeed, or exit with another code."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# compile


def test_compile_to_onnx(folder: Path) -> None:
    result = run("compile", "mynet.py:build", "-o", "net.onnx", "--dynamic", "batch", "--opset", "18")
    assert "wrote net.onnx" in result.output and "fold-batch-norm" in result.output
    model = onnx.load("net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.opset_import[0].version == 18
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".py" and p.is_file()) == ["net.onnx"]


@pytest.mark.parametrize("function", ["build", "named", "without_inputs"])
def test_compile_to_a_saved_model(function: str) -> None:
    run("compile", f"mynet.py:{function}", "-o", "net.gopt", "--target", "eager")
    loaded = graphopt.load("net.gopt")
    arguments = {"build": (torch.ones(2, 1, 6, 6),), "named": (torch.ones(2, 1, 6, 6),)}.get(function, ())
    assert loaded(*arguments).shape in [(2, 3), (3,)]
    shown = run("show", "net.gopt").output
    assert shown.startswith("graph main {") and "return" in shown


def test_compile_to_text_and_back(folder: Path) -> None:
    run("compile", "mynet.py:build", "-o", "net.txt", "-t", "fx", "-p", "none")
    assert (folder / "net.safetensors").exists()
    result = run("opt", "net.txt", "-p", "canonicalize,dead-code", "--report", "opt.json")
    assert "aten.add" in (folder / "net.txt").read_text() and "aten.add" not in result.stdout
    assert "canonicalize" in result.stderr
    assert json.loads((folder / "opt.json").read_text())["passes"]["pipeline"] == "canonicalize,dead-code"


def test_a_saved_model_is_optimized_again() -> None:
    run("compile", "mynet.py:build", "-o", "net.gopt", "-t", "fx", "-p", "none")
    assert "aten.add" in run("show", "net.gopt").output
    assert "aten.add" not in run("opt", "net.gopt", "-p", "canonicalize").stdout
    with pytest.raises(GraphOptError, match=r"names no pipeline; give one with --passes"):
        run("opt", "net.gopt")


def test_compile_an_archive() -> None:
    sys.path.insert(0, "")
    import mynet  # type: ignore[import-not-found]

    model, args = mynet.build()
    torch.export.save(torch.export.export(model, args), "net.pt2")
    run("compile", "net.pt2", "-o", "net.gopt", "-t", "eager", "-p", "default")
    torch.testing.assert_close(graphopt.load("net.gopt")(*args), model(*args).detach(), atol=1e-5, rtol=1e-4)
    assert "original" in run("bench", "net.pt2", "-t", "eager", "--rounds", "1").output


def test_a_report_a_dump_and_the_changes(folder: Path) -> None:
    result = run(
        *("compile", "mynet.py:build", "-o", "net.gopt", "-t", "eager", "--print-changes"),
        *("--dump", "steps", "--report", "report.json"),
    )
    report = json.loads((folder / "report.json").read_text())
    assert report["target"] == "eager" and any(p["status"] == "kept" for p in report["passes"]["passes"])
    assert report["passes"]["total_error"]["max_abs"] < 1e-5
    assert any((folder / "steps").iterdir())
    assert re.search(r"^-.*aten.batch_norm", result.stdout, re.MULTILINE)


def test_without_validation() -> None:
    output = run("compile", "mynet.py:build", "-o", "net.gopt", "-t", "eager", "--no-validate").output
    assert "validation: off" in output or "error against" not in output


# show, passes, bench


def test_show() -> None:
    before = run("show", "mynet.py:build").output
    assert "aten.add" in before and "aten.batch_norm" in before and 'mynet.py":' in before
    after = run("show", "mynet.py:build", "-p", "default", "--dynamic", "batch", "--no-locations").output
    assert "aten.add" not in after and "aten.batch_norm" not in after and "mynet.py" not in after
    assert "f32[batch, 1, 6, 6]" in after
    assert "aten.batch_norm" in run("show", "mynet.py:build", "-p", "default", "-t", "fx").output
    assert run("show", "mynet:build").output == before.replace("/mynet.py", "/mynet.py")


def test_show_parses() -> None:
    from graphopt.ops import parse

    text = run("show", "mynet.py:without_inputs").output
    assert str(parse(text)) == text.strip()


def test_passes() -> None:
    table = plain(run("passes").output)
    for name in ("canonicalize", "dead-code", "fold-batch-norm"):
        assert name in table
    assert "default, canonical, none" in table and "graphopt passes NAME" in table
    targets = plain(run("passes", "--targets").output)
    assert "onnxruntime" in targets and "trainable FX module" in targets


def test_every_pass_and_pipeline_is_explained() -> None:
    from graphopt.passmanager import pass_names
    from graphopt.pipelines import NAMES

    for name in (*pass_names(), *NAMES):
        text = run("passes", name).output
        assert text.startswith(f"{name} (") and len(text.splitlines()) > 2
    text = run("passes", "dead-code").output
    assert "constants: bool = True" in text and "in a pipeline: dead-code{constants=...}" in text
    assert "for a result that is trained" in run("passes", "default").output


def test_bench() -> None:
    output = plain(run("bench", "mynet.py:build", "-t", "eager", "-t", "onnxruntime", "--rounds", "1").output)
    rows = {line.split()[1]: line.split() for line in output.splitlines() if line.startswith(("│", "|"))}
    assert list(rows) == ["original", "eager", "onnxruntime"]
    assert float(rows["original"][3]) > 0 and rows["original"][5] == "1.00x"


# Help and errors


@pytest.mark.parametrize("command", ["compile", "show", "passes", "bench", "opt"])
def test_help_teaches(command: str) -> None:
    text = plain(run(command, "--help").output)
    assert "Example:" in text and f"graphopt {command}" in text
    everything = plain(run("--help").output)
    assert command in everything and "file.py:function" in everything and "Start with" in everything


def test_version() -> None:
    assert run("--version").output == f"graphopt {graphopt.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("show", "mynet.py:biuld"),
            r"Unknown function 'biuld'. Did you mean 'build'\? mynet.py has: build, named, .*, raises\.",
        ),
        (("show", "mynet.py"), "'mynet.py' names no model; .*mynet.py:build"),
        (("show", "mynet.py:Net"), "mynet.py:Net is a class, not a function"),
        (("show", "mynet.py:net"), "mynet.py:net is a Net, not a function"),
        (("show", "mynet.py:wrong"), r"must return \(model, args\) or \(model, args, kwargs\), got Net"),
        (("show", "mynet.py:raises"), r"calling mynet.py:raises failed: ZeroDivisionError: .*mynet.py:\d+, in raises"),
        (("show", "broken.py:build"), r"running broken.py failed: SyntaxError"),
        (("show", "none.py:build"), "no such file: none.py"),
        (("show", "none.pt2"), "no such file: none.pt2"),
        (("show", "no_such_module:build"), "no module named 'no_such_module'"),
        (("show", "mynet.py:build", "-p", "dead-cod"), "Unknown pass 'dead-cod'. Did you mean 'dead-code'"),
        (("show", "mynet.py:build", "-t", "onx"), "Unknown target 'onx'. Did you mean 'onnx'"),
        (("passes", "fold-batchnorm"), "Unknown pass 'fold-batchnorm'. Did you mean 'fold-batch-norm'"),
        (("compile", "mynet.py:build", "-o", "net.xyz"), "cannot write 'net.xyz': the suffix must be one of .gopt"),
        (
            ("compile", "mynet.py:build", "-o", "no/net.gopt", "-t", "eager"),
            "cannot write no/net.gopt: there is no folder no",
        ),
        (("compile", "mynet.py:build", "-o", "n.onnx", "--dynamic", "bach"), "'bach'. Did you mean 'batch'"),
        (("bench", "mynet.py:build", "-t", "eager", "-t", "eager"), "each once"),
        (("opt", "none.txt"), "cannot read the reproducer none.txt"),
    ],
)
def test_errors(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    (folder / "broken.py").write_text("def build(:\n")
    with pytest.raises(GraphOptError, match=message):
        run(*arguments)
    assert not list(folder.glob("n*.gopt")) and not list(folder.glob("n*.onnx"))


def test_a_saved_model_is_not_compiled_again() -> None:
    run("compile", "mynet.py:build", "-o", "net.gopt", "-t", "fx", "-p", "none")
    with pytest.raises(GraphOptError, match=r"net.gopt is compiled already; load it with graphopt.load"):
        run("compile", "net.gopt", "-o", "again.gopt")
    with pytest.raises(GraphOptError, match=r"net.gopt is compiled already; give the original model"):
        run("bench", "net.gopt")


def test_usage_errors_exit_with_two() -> None:
    for arguments in (("compile", "mynet.py:build"), ("nosuch",), ("bench", "mynet.py:build", "--rounds", "0")):
        assert CliRunner().invoke(app, arguments).exit_code == 2


def test_a_file_named_like_a_module_does_not_replace_it(folder: Path) -> None:
    import json as library

    (folder / "json.py").write_text(MODEL)
    assert "aten.conv2d" in run("show", "json.py:build").output
    assert sys.modules["json"] is library


def test_a_file_imports_its_neighbours(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "shapes_of_mine.py").write_text("SIZE = 3\n")
    (folder / "deep" / "model.py").write_text(
        "import torch\nfrom shapes_of_mine import SIZE\ndef build(): return torch.nn.ReLU(), (torch.ones(SIZE),)\n"
    )
    assert "f32[3]" in run("show", "deep/model.py:build").output


# Reproducers


def test_a_failing_pass_leaves_a_file_that_runs_again(folder: Path) -> None:
    from dataclasses import dataclass

    from graphopt.passmanager import Pass, PassContext, PassResult
    from graphopt.passmanager.registry import registry

    @dataclass(frozen=True)
    class TestTrips(Pass):
        at: str = "aten.relu"

        def run(self, graph: Any, context: PassContext) -> PassResult:
            if any(node.op.name == self.at for node in graph):
                raise ValueError(f"tripped over {self.at}")
            return PassResult(False)

    registry.register(TestTrips)
    try:
        pipeline = 'dead-code,test-trips{at="aten.relu"}'
        arguments = ("compile", "mynet.py:build", "-o", "net.gopt", "-t", "eager", "-p", pipeline)
        output = run(*arguments, "--reproducers", "failures").output
        assert "rolled back" in output and "run again: graphopt opt failures/001-test-trips.gir" in output
        with pytest.raises(GraphOptError, match=r"tripped over aten.relu"):
            run("opt", "failures/001-test-trips.gir")
        assert "aten.conv2d" in run("opt", "failures/001-test-trips.gir", "-p", "dead-code").stdout
        with pytest.raises(GraphOptError, match=r"tripped over aten.relu"):
            run(*arguments, "--strict")
    finally:
        registry.unregister("test-trips")


# As processes


@pytest.mark.parametrize(
    "program", [[sys.executable, "-m", "graphopt"], [str(Path(sys.executable).parent / "graphopt")]]
)
def test_as_a_process(program: list[str], folder: Path) -> None:
    done = subprocess.run([*program, "show", "mynet.py:biuld"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: Unknown function 'biuld'. Did you mean 'build'?")
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1


def test_help_is_quick_and_needs_no_engine() -> None:
    code = "import sys, graphopt.cli; print(*sorted({'onnx', 'onnxruntime', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
