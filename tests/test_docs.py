"""Every Python block of the README and of docs/ runs, in order, one namespace a page."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # where dataclasses look up annotations
    for match in BLOCK.finditer(page.read_text()):
        line = page.read_text().count("\n", 0, match.start()) + 1
        code = compile("\n" * line + match.group(1), str(page), "exec", dont_inherit=True)
        exec(code, module.__dict__)


def test_readme_shows_the_example_as_it_is() -> None:
    example = (ROOT / "examples" / "custom_pass.py").read_text()
    body = example.split('"""\n', 1)[1].strip()
    assert body in (ROOT / "README.md").read_text()
    assert len(body.splitlines()) < 30
