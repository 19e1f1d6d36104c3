"""Models named on the command line: files, and `package.module:function` for models built by Python code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from graphopt.errors import GraphOptError, unknown_name


@dataclass
class ModelSource:
    """A model with example inputs. A `.gopt` or `.pt2` file is given by its path and needs none."""

    model: nn.Module | Path
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_saved(self) -> bool:
        """True for the saved form (`.gopt`)."""
        return isinstance(self.model, Path) and self.model.suffix == ".gopt"


def resolve_model(text: str) -> ModelSource:
    """Return the model that `text` names.

    text: the path of a `.gopt` or `.pt2` file, or `module:function` (also `path/to/file.py:function`), where the
        function takes no arguments and returns `(model, args)` or `(model, args, kwargs)`. The module is run.

    Raises:
        GraphOptError: no such file or function, or the function returns something else.
    """
    path = Path(text)
    if path.suffix in (".gopt", ".pt2"):
        if not path.exists():
            raise GraphOptError(f"no such file: {path}")
        return ModelSource(path)
    name, separator, attribute = text.rpartition(":")
    if not separator:
        raise GraphOptError(
            f"{text!r} names no model; give a .gopt or .pt2 file, or module:function where the function returns "
            "(model, args)"
        )
    return _from_function(_module(name), attribute, text)


def _module(name: str) -> ModuleType:
    if name.endswith(".py"):
        path = Path(name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.exists():
            raise GraphOptError(f"no such file: {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise GraphOptError(f"no module named {error.name!r}; run where it can be imported, or give a file") from error


def _from_function(module: ModuleType, name: str, text: str) -> ModelSource:
    function = getattr(module, name, None)
    if not callable(function):
        raise unknown_name(
            "function", name, (n for n in vars(module) if not n.startswith("_")), f"It was given as {text!r}."
        )
    result = function()
    if isinstance(result, tuple) and 2 <= len(result) <= 3 and isinstance(result[0], nn.Module):
        args = result[1] if isinstance(result[1], tuple | list) else (result[1],)
        kwargs: Mapping[str, Any] = result[2] if len(result) == 3 else {}
        return ModelSource(result[0], tuple(args), dict(kwargs))
    raise GraphOptError(f"{text} must return (model, args) or (model, args, kwargs), got {type(result).__name__}")
