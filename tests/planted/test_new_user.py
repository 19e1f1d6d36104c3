"""As a new user would: from a compile that fails to the rewrite at fault, by following what the terminal prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from graphopt.cli import app
from graphopt.passmanager.registry import registry

pytestmark = pytest.mark.unchecked_passes

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))

def build():
    torch.manual_seed(0)
    return Net().eval(), (torch.randn(4, 16),)
"""
RULES = """
import graphopt
from graphopt.rewrite import aten, var

x, w, b = var("x"), var("w"), var("b")

@graphopt.rewrite(aten.linear(x, w, b))
def fast_linear(x, w, b):
    return None if b is None else aten.linear(x, w)
"""
SCRIPT = f"""{RULES}
from net import build

model, args = build()
graphopt.compile(model, args, target="fx", passes=["default", fast_linear])
"""
CULPRIT = re.compile(r"rule 'fast-linear', application 1.*, at %linear = aten\.linear\(.*\n\s*from .*net\.py:11 fc1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    for name in ("GRAPHOPT_ON_ERROR", "GRAPHOPT_REPRODUCERS", "GRAPHOPT_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    registry.unregister("fast-linear")
    for name in [n for n in sys.modules if n in ("net", "rules", "script") or n.startswith("graphopt model ")]:
        del sys.modules[name]


def in_shell(command: str) -> str:
    """What a command prints, run as a process; `python` and `graphopt` are those of this environment."""
    words = shlex.split(command)
    environment = dict(os.environ)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    program = [sys.executable, "-m", "graphopt"] if words[0] == "graphopt" else [sys.executable]
    done = subprocess.run([*program, *words[1:]], capture_output=True, text=True, env=environment)
    return done.stdout + done.stderr


def here(command: str) -> Result:
    """A `graphopt` command, run in this process."""
    words = shlex.split(command)
    assert words[0] == "graphopt"
    return CliRunner().invoke(app, words[1:])


def printed(text: str, lead: str) -> str:
    """The command that follows `lead` in what was printed."""
    found = re.search(rf"{lead}: (.+)", text)
    assert found is not None, text
    return found[1].strip()


def test_from_the_command_line(folder: Path) -> None:
    shown = in_shell(
        "graphopt compile net.py:build -o net.onnx -t onnxruntime -p default,fast-linear --plugin rules.py"
    )
    assert "warning: pass 'fast-linear' was rolled back" in shown and "GraphOptWarning" not in shown
    command = printed(shown, "for the smallest graph that fails")
    assert command == "graphopt bisect net.py:build -t onnxruntime -p default,fast-linear --plugin rules.py"
    done = here(command)
    assert done.exit_code == 1 and CULPRIT.search(done.output), done.output
    again = here(printed(done.output, "run again"))
    assert again.exit_code != 0 and CULPRIT.search(str(again.exception)), again.output


def test_from_a_script(folder: Path) -> None:
    shown = in_shell("python script.py")
    assert re.search(r"script\.py:\d+: GraphOptWarning: pass 'fast-linear' was rolled back", shown), shown
    command = printed(shown, "for the smallest graph that fails")
    assert command.startswith("GRAPHOPT_ON_ERROR=bisect ") and command.endswith(" script.py")
    shown = in_shell(command)
    assert CULPRIT.search(shown), shown
    again = here(printed(shown, "run again"))
    assert again.exit_code != 0 and CULPRIT.search(str(again.exception)), again.output


def test_a_function_of_ones_own_judges(folder: Path) -> None:
    (folder / "lossy.py").write_text(RULES.replace("(x, w, b))", "(x, w, b), contract=graphopt.Contract.LOSSY)"))
    check = "import torch, net\n\ndef good(module):\n    model, args = net.build()\n"
    check += (
        "    with torch.no_grad():\n        assert torch.allclose(module(*args), model(*args), atol=1e-3), 'far off'\n"
    )
    (folder / "judge.py").write_text(check)
    options = "-p canonicalize,fast-linear,dead-code --plugin lossy.py"
    silent = here(f"graphopt bisect net.py:build {options}")
    assert silent.exit_code == 0 and "keeps its promise" in silent.output, silent.output
    done = here(f"graphopt bisect net.py:build {options} --check judge.py:good --list")
    assert done.exit_code == 1 and "judge.py:good says: far off" in done.output
    assert CULPRIT.search(done.output), done.output
    assert re.search(r"^ +1  fast-linear  fast-linear  %linear", done.output, re.MULTILINE)
    again = here(printed(done.output, "run again"))
    assert again.exit_code != 0 and "budget is 0" in str(again.exception) and CULPRIT.search(str(again.exception))
    innocent = here("graphopt bisect net.py:build -p canonicalize,dead-code --check judge.py:good")
    assert innocent.exit_code == 0 and "finds no fault" in innocent.output


def test_an_engine_judges(folder: Path) -> None:
    (folder / "lossy.py").write_text(RULES.replace("(x, w, b))", "(x, w, b), contract=graphopt.Contract.LOSSY)"))
    options = "-p fast-linear,dead-code --plugin lossy.py --engine eager"
    done = here(f"graphopt bisect net.py:build {options}")
    assert done.exit_code == 1 and CULPRIT.search(done.output), done.output
    assert "shrunk to 1 node " in done.output
    again = here(printed(done.output, "run again"))
    assert again.exit_code != 0 and "eager: output 0" in str(again.exception), again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("net.py:build --check judge", "names no function"),
        ("net.py:build --check net.py:bild", "Did you mean 'build'"),
        ("net.py:build --engine eagre", "Did you mean 'eager'"),
        ("net.py:build --plugin none.py", "no such file: none.py"),
        ("net.py:build -p nothing-at-all", "Unknown pass 'nothing-at-all'"),
    ],
)
def test_mistakes_are_named(folder: Path, arguments: str, message: str) -> None:
    done = here(f"graphopt bisect {arguments}")
    assert done.exit_code != 0 and message in str(done.exception)


def test_a_plugin_may_not_take_an_installed_name(folder: Path) -> None:
    (folder / "rules.py").write_text(RULES.replace("def fast_linear", "def dead_code"))
    done = here("graphopt bisect net.py:build --plugin rules.py")
    assert done.exit_code != 0 and "an installed one has that name" in str(done.exception)
