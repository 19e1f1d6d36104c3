"""Where a traced node came from: the user's source line and the module path."""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from graphopt.ir import UNKNOWN, Location

_FRAME = re.compile(r'^\s*File "([^"]+)", line (\d+)', re.MULTILINE)
_TORCH = os.path.dirname(torch.__file__) + os.sep
_REPEAT = re.compile(r"@\d+")


class Locations:
    """Reads locations from node metadata; equal ones are shared."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Location] = {}
        self._lines: dict[str, tuple[str, int]] = {}

    def of(self, meta: dict[str, Any], outer: Location = UNKNOWN) -> Location:
        """Return the location of a node; what its metadata doesn't say comes from `outer` (the enclosing call)."""
        trace = meta.get("stack_trace") or ""
        scope = scope_of(meta) or outer.scope
        key = (trace, scope)
        found = self._known.get(key)
        if found is None:
            file, line = self._user_line(trace)
            found = Location(file or outer.file, line if file else outer.line, scope)
            self._known[key] = found
        return found

    def _user_line(self, trace: str) -> tuple[str, int]:
        found = self._lines.get(trace)
        if found is None:
            frames = [(file, int(line)) for file, line in _FRAME.findall(trace) if not file.startswith("<")]
            own = [frame for frame in frames if not is_torch_file(frame[0])]
            found = self._lines[trace] = (own or [("", 0)])[-1]
        return found


def scope_of(meta: dict[str, Any]) -> str:
    """Return the path of the innermost module that a node was traced in."""
    stack = meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = next(reversed(stack.values()))
    if path.startswith("_empty_nn_module_stack"):
        return ""
    return _REPEAT.sub("", path.removeprefix("L['self'].").removeprefix("L['self']"))


def is_torch_file(file: str) -> bool:
    """True for a source file of PyTorch itself."""
    return file.startswith((_TORCH, "torch/"))
