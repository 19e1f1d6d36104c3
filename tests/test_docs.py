"""The code of the README and of docs/ runs, a page in one namespace; what a page shows is what it prints.

```python               runs            ```python title="net.py"   is written to that file
```sh                   lines that start with `graphopt` run; `$?` in a comment gives an exit status other than 0
```text                 what the block before must have printed: `…` stands for anything, in a line by itself for
                        any lines; runs of spaces and of dashes count as one
"""

from __future__ import annotations

import io
import re
import shlex
import sys
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from graphopt.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)?([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        title = re.search(r'title="([^"]+)"', match[2])
        yield Block(match[1] or "", title[1] if title else "", match[3], text.count("\n", 0, match.start()) + 1)


def marks(page: Path) -> list[pytest.MarkDecorator]:
    """Where a page shows what the checks of a pass say, the tests' own checks don't come before them."""
    return [pytest.mark.unchecked_passes] if "```text" in page.read_text() else []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name, marks=marks(page)) for page in PAGES])
def test_code_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "dumb")
    before = set(sys.modules)
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look up annotations
    printed: str | None = None
    try:
        for block in blocks(page):
            if block.language == "text" and printed is not None:
                check_output(block, printed, page)
            printed = run_block(block, page, module, monkeypatch)
    finally:
        for name in set(sys.modules) - before:  # another page may have a file of that name
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
                del sys.modules[name]


def run_block(block: Block, page: Path, module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Run a block and return what it printed; None for one that does not run."""
    if block.language == "python" and block.title:
        Path(block.title).write_text(block.text)
    elif block.language == "python":
        code = compile("\n" * block.line + block.text, str(page), "exec", dont_inherit=True)
        with redirect_stdout(io.StringIO()) as printed:
            exec(code, module.__dict__)
        return printed.getvalue()
    elif block.language == "sh":
        return "".join(
            run_command(line, page, monkeypatch) for line in block.text.splitlines() if line.startswith("graphopt ")
        )
    return None


def run_command(line: str, page: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a line of the shell as the program would, and return what it wrote to standard output."""
    command, _, comment = line.partition("  # ")
    status = re.search(r"\$\? is (\d+)", comment)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with redirect_stdout(io.StringIO()) as printed:
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
    assert code == (int(status[1]) if status else 0), f"{page.name}: {command} ended with {code}\n{printed.getvalue()}"
    return printed.getvalue()


def check_output(block: Block, printed: str, page: Path) -> None:
    """Hold what a page shows against what was printed."""
    pattern = ""
    for line in plain(block.text):
        pattern += r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
    text = "\n".join(plain(printed)) + "\n"
    assert re.fullmatch(pattern, text), f"{page.name}, line {block.line}: the output is\n{printed}"


def plain(text: str) -> list[str]:
    """Lines without their alignment."""
    return [re.sub(r"-{2,}", "--", re.sub(r" +", " ", line)).strip() for line in text.strip().splitlines()]


def test_readme_shows_the_example_as_it_is() -> None:
    example = (ROOT / "examples" / "custom_pass.py").read_text()
    body = example.split('"""\n', 1)[1].strip()
    assert body in (ROOT / "README.md").read_text()
    assert len(body.splitlines()) < 30
