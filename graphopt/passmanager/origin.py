"""Where a pass comes from, so that another process can import it: `--plugin rules.py`, `--plugin package.module`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from graphopt.passmanager.base import FunctionPass, Pass, Rewrites
from graphopt.passmanager.pipeline import Pipeline
from graphopt.passmanager.registry import registry

OWN = "graphopt."


def plugins_of(pass_: Pass) -> tuple[list[str], list[str]]:
    """Return what to import for a pass to be known by its name, and the names of what cannot be imported.

    Installed passes need nothing. Something made inside a function, or typed into an interpreter, cannot be imported.
    """
    plugins: dict[str, None] = {}
    hidden: dict[str, None] = {}
    for leaf in pass_.leaves() if isinstance(pass_, Pipeline) else [pass_]:
        if registry.is_installed(leaf.name):
            continue
        for source in _sources(leaf):
            name = getattr(source, "__module__", "") or ""
            if "<locals>" in getattr(source, "__qualname__", ""):
                hidden[leaf.name] = None
            elif not name.startswith(OWN):
                plugin = _plugin(name)
                (plugins if plugin else hidden)[plugin or leaf.name] = None
    return list(plugins), list(hidden)


def _sources(pass_: Pass) -> Iterable[Any]:
    """The functions and classes that a pass is made of."""
    if isinstance(pass_, FunctionPass):
        return [pass_.function]
    if isinstance(pass_, Rewrites):
        return [getattr(rule, "function", type(rule)) for rule in pass_.given]
    return [type(pass_)]


def _plugin(module: str) -> str:
    """A file for what was run as one, else the module's name; "" for what was typed in."""
    found = sys.modules.get(module)
    file = getattr(found, "__file__", None)
    if file is None:
        return ""
    if module.isidentifier() and module != "__main__" and _is_installed(file):
        return module
    if "." in module and " " not in module:
        return module
    path = Path(file).resolve()
    inside = path.is_relative_to(Path.cwd())
    return os.path.relpath(path) if inside else str(path)


def _is_installed(file: str) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in Path(file).parts)
