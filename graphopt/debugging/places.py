"""Where something came from, in few words."""

from __future__ import annotations

from pathlib import Path

from graphopt.ir import Location


def source_line(location: Location) -> str:
    """`net/model.py:12`, or "" if that is not known."""
    return f"{location.file}:{location.line}" if location.file else ""


def place_text(line: str, scope: str) -> str:
    """A source line, by the name of its file, and a module.

    >>> place_text("net/model.py:12", "block.act"), place_text("", "")
    ('model.py:12 block.act', '')
    """
    return " ".join(part for part in (Path(line).name if line else "", scope) if part)
