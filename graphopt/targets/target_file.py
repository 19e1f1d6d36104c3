"""Targets in TOML files, which third parties ship:

schema = 1
name = "box"
engines = ["eager"]

[[devices]]
name = "cpu"
memory = "8 GiB"                     # bytes, or a number with a unit
peak = { f32 = 2e11, i8 = 8e11 }     # FLOP/s
bandwidth = 2.5e10                   # bytes/s

[[devices]]
name = "gpu:0"
kind = "cuda"
...

[[links]]
from = "cpu"
to = "gpu:0"
bandwidth = 1.2e10
latency = 1e-5

[[capabilities]]
operator = "aten.conv2d"
devices = ["gpu:0"]
dtypes = ["f32", "i8"]
scales = "integer"
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from graphopt.errors import TargetError
from graphopt.targets.device import Capability, Device, Link
from graphopt.targets.target import Target

SCHEMA = 1
SUFFIX = ".toml"
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_PARTS: dict[str, type[Any]] = {"devices": Device, "links": Link, "capabilities": Capability}


def load_target(path: str | os.PathLike[str]) -> Target:
    """Read a target from a TOML file.

    Raises:
        TargetError: no such file, no TOML, another schema version, or a field that does not hold what it should; the
            message names file, table and field.
    """
    name = os.fspath(path)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise TargetError(f"cannot read the target {name}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TargetError(f"{name} is no text, so no target: {error}") from error
    try:
        return target_from(_parsed(text))
    except TargetError as error:
        raise TargetError(f"{name}: {error}") from error


def _parsed(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"this is no TOML: {error}") from error


def target_from(data: Mapping[str, Any]) -> Target:
    """Make a target of what a TOML file holds.

    Raises:
        TargetError: another schema version, or a field that does not hold what it should.

    >>> target_from({"schema": 1, "name": "tiny", "devices": [{"name": "cpu", "peak": {"f32": 1e9}}]}).devices[0].name
    'cpu'
    """
    schema = data.get("schema")
    if schema != SCHEMA:
        found = "there is no schema" if schema is None else f"schema is {schema!r}"
        raise TargetError(f"{found}; this version of graphopt reads targets with schema = {SCHEMA}")
    given = {key: value for key, value in data.items() if key != "schema"}
    for part, kind in _PARTS.items():
        rows = given.get(part, [])
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise TargetError(f"{part} must be tables, as [[{part}]]")
        if part in given:
            given[part] = [_row(kind, row, f"{part}[{index}]") for index, row in enumerate(rows)]
    return _made(Target, given, "the target")


def _row(kind: type[Any], row: Mapping[str, Any], place: str) -> Any:
    given = dict(row)
    if kind is Link:
        given = {{"from": "source", "to": "sink"}.get(key, key): value for key, value in given.items()}
    if isinstance(given.get("memory"), str):
        given["memory"] = _bytes(given["memory"], place)
    return _made(kind, given, place)


def _made(kind: type[Any], given: Mapping[str, Any], place: str) -> Any:
    known = [f.name for f in fields(kind)]
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise TargetError(f"{place} has no field {key!r}; {hint}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    try:
        return kind(**values)
    except TargetError as error:
        raise TargetError(f"{place}: {error}" if kind is not Target else str(error)) from error
    except TypeError as error:
        raise TargetError(f"{place}: {_lacking(str(error))}") from error


def _lacking(message: str) -> str:
    names = re.findall(r"'(\w+)'", message.partition("argument")[2])
    return f"field {' and '.join(map(repr, names))} is missing" if names else message


def _bytes(text: str, place: str) -> int:
    found = _SIZE.fullmatch(text.strip())
    if found is None or found[2] not in _UNITS:
        raise TargetError(f"{place}: memory must be bytes, or a number and one of {', '.join(_UNITS)}, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])
