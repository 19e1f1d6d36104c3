"""Reports as files: written as a page or as JSON, and read back from JSON or from a saved model."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import GraphOptError, SerializationError
from graphopt.html_report.page import html_page
from graphopt.html_report.roofline import measure_peaks
from graphopt.ir.files import atomic_write

PAGES, JSON = (".html", ".htm"), ".json"


def write_report(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a report, given as JSON values: a page to a `.html` file, JSON to a `.json` file.

    Raises:
        GraphOptError: another suffix.
        SerializationError: the file cannot be written; what was there before still is.
    """
    suffix = check_suffix(path)
    text = json.dumps(report, indent=1, allow_nan=False) if suffix == JSON else html_page(with_peaks(report))
    with atomic_write(path) as file:
        file.write(text.encode())


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the suffix of a file that a report can be written to.

    Raises:
        GraphOptError: another suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (*PAGES, JSON):
        raise GraphOptError(f"cannot write a report to {Path(path).name!r}: the suffix must be .html or .json")
    return suffix


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the report, as JSON values, of a saved model (`.gopt`) or of a report that was written as JSON.

    Raises:
        SerializationError: no such file, no report, or one of a later version.
    """
    from graphopt.report import FORMAT

    source = Path(path)
    found = _read_json(source) if source.suffix.lower() == JSON else _of_saved_model(source)
    if not isinstance(found, dict) or "passes" not in found:
        raise SerializationError(f"{source} is no report of a compilation")
    if found.get("format", 0) > FORMAT:
        raise SerializationError(f"{source} was written by a later graphopt ({found.get('graphopt')}); update graphopt")
    return found


def _of_saved_model(source: Path) -> Any:
    """The report in the manifest, with the graph of the file where the report holds none."""
    from graphopt.html_report.facts import graph_facts
    from graphopt.serialization import load_graph

    graph, manifest = load_graph(source)
    report = manifest.get("report")
    if not isinstance(report, dict):
        raise SerializationError(f"{source} holds a graph alone, and no report of a compilation")
    report.setdefault("graphs", {"after": graph_facts(graph)})
    return report


def _read_json(source: Path) -> Any:
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise SerializationError(f"cannot read {source}: {error.strerror or error}") from error
    except ValueError as error:
        raise SerializationError(f"{source} is no JSON: {error}") from error


def with_peaks(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return a report with this machine's peaks for the roofline; they are measured, unless it has some."""
    inner = report.get("compiled") or report
    return dict(report) if "peaks" in inner else {**report, "peaks": measure_peaks().to_dict()}
