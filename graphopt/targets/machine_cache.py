"""What was measured on this machine, kept in JSON files in the user's cache folder.

A file says which version wrote it and on what machine. One that another version or machine wrote, or that is damaged,
is measured again, and a warning says so.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import GraphOptWarning, SerializationError
from graphopt.ir.files import atomic_write

VERSION = 2
FOLDER = "GRAPHOPT_CACHE"
"""The environment variable that names another folder."""

_read: dict[Path, Any] = {}


def cache_folder() -> Path:
    """Where measurements are kept: `$GRAPHOPT_CACHE`, else `graphopt` in the user's cache folder."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphopt"


def cached(name: str, measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `measure` gave on this machine, now or earlier.

    name: of the file, without suffix. measure: gives numbers and texts by name, nested as JSON can be.
    """
    path = cache_folder() / f"{name}.json"
    if path not in _read:
        kept, why = recall(name)
        if why:
            warnings.warn(f"the cache {path} {why}; it is measured again", GraphOptWarning, stacklevel=2)
        if kept is None:
            keep(path, measure())
        else:
            _read[path] = kept
    return dict(_read[path])


def recall(name: str) -> tuple[dict[str, Any] | None, str]:
    """Return what the file of a name holds; or None, and why it cannot be used, "" if there is no file."""
    path = cache_folder() / f"{name}.json"
    if not path.is_file():
        return None, ""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version, machine, values = document["version"], document["machine"], document["values"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"is damaged ({type(error).__name__})"
    why = _unusable(version, machine, values)
    return (None, why) if why else (dict(values), "")


def _unusable(version: Any, machine: Any, values: Any) -> str:
    """Why what a file holds is of no use here; "" if it is."""
    from graphopt.targets.machine import fingerprint

    if version != VERSION:
        return f"is of version {version!r}, this is {VERSION}"
    if machine != fingerprint():
        return "was measured on another machine, or with another PyTorch or number of threads"
    return "" if isinstance(values, dict) else "is damaged (no values)"


def keep(path: Path, values: Mapping[str, Any]) -> None:
    """Write measurements; where the folder cannot be written, this process alone knows them."""
    _read[path] = dict(values)
    write(path, values)


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write measurements with the version and the machine; a folder that cannot be written is a warning."""
    from graphopt.targets.machine import fingerprint

    document = {"version": VERSION, "machine": fingerprint(), "values": values}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write((json.dumps(document, indent=1) + "\n").encode())
    except (OSError, SerializationError) as error:
        warnings.warn(f"measurements cannot be kept in {path}: {error}", GraphOptWarning, stacklevel=3)


def forget() -> None:
    """Read files anew at the next use."""
    _read.clear()
