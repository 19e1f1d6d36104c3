"""The report as one HTML page that needs nothing else: style, script and facts are in it.

The facts are JSON in a script element that no browser runs; the script builds the page from them and puts every text
in as text. A content security policy allows this script (by its hash) and this style, and no connection anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

SCRIPTS = (
    *("dom", "format", "facts", "tree", "layout", "palette", "canvas", "graph_view", "details", "search"),
    *("charts", "summary", "passes", "pruning", "quantization", "rules", "main"),
)
"""The parts of the script, in order; they share one scope."""

_SEPARATORS = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def html_page(report: Mapping[str, Any]) -> str:
    """Return the page of a report, given as its `to_dict()` or what JSON made of that.

    >>> page = html_page({"format": 1, "model": "</script><script>alert(1)</script>"})
    >>> "<script>alert" in page, "https://" in page, "http://" in page
    (False, False, False)
    """
    style, script = _asset("page.css"), _script()
    facts = json.dumps(report, allow_nan=False, separators=(",", ":"), ensure_ascii=False).translate(_SEPARATORS)
    values = {
        "title": html.escape(f"{report.get('model') or 'model'} · graphopt report"),
        "policy": f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_hash(script)}'; img-src data:",
        "style": style,
        "facts": facts,
        "script": script,
    }
    return "".join(part if index % 2 == 0 else values[part] for index, part in enumerate(_template()))


@cache
def _template() -> tuple[str, ...]:
    """The page, split at `{{name}}`: text and names in turn."""
    parts = _asset("page.html").replace("}}", "{{").split("{{")
    return tuple(parts)


@cache
def _script() -> str:
    body = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


@cache
def _asset(name: str) -> str:
    return files("graphopt.html_report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
