"""Models of PyTorch Hub repositories, `hub:PATH:entry`: folders with a `hubconf.py`, local or in PyTorch's cache.

Nothing is downloaded, and nothing of the repository is run unless it is trusted: an entry is a function of it.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphopt.errors import GraphOptError, unknown_name
from graphopt.ir import DType
from graphopt.onnx_values import read_array

PREFIX = "hub:"
CONFIG = "hubconf.py"
_TYPE = re.compile(r"([a-z]+\d+|bool)\[([\d, ]*)\]")


def is_hub(text: object) -> bool:
    """Whether a text names an entry of a hub repository.

    >>> is_hub("hub:pytorch/vision:resnet18"), is_hub("model.onnx")
    (True, False)
    """
    return isinstance(text, str) and text.startswith(PREFIX)


def load_hub(text: str, *, trust: bool = False) -> nn.Module | tuple[Any, ...]:
    """Return what the entry that `text` names gives: a module, or `(model, args)`, or `(model, args, kwargs)`.

    text: `hub:FOLDER:entry`, or `hub:owner/name:entry` and `hub:owner/name:ref:entry` for what PyTorch has cached.

    Raises:
        GraphOptError: it is not trusted; no such repository or entry; the entry fails, or gives something else.
    """
    place, _, entry = text.removeprefix(PREFIX).rpartition(":")
    if not place or not entry:
        raise GraphOptError(f"{text!r} names no model; give hub:FOLDER:entry or hub:owner/name:entry")
    folder = _folder(place)
    if not trust:
        raise GraphOptError(
            f"{text} runs the code of {folder / CONFIG}; read it, then give trust=True (on the command line --trust)"
        )
    names = _entries(folder)
    if entry not in names and not any(name.endswith("*") for name in names):
        raise unknown_name("entry", entry, names, f"{folder / CONFIG} has: {', '.join(names) or 'none'}.")
    found = _run(f"calling {entry} of {folder / CONFIG}", lambda: torch.hub.load(str(folder), entry, source="local"))
    if not (isinstance(found, nn.Module) or (isinstance(found, tuple) and found and isinstance(found[0], nn.Module))):
        raise GraphOptError(f"{text} must give a module, or (model, args), got {type(found).__name__}")
    return found


def hub_inputs(model: nn.Module, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return inputs by the names of the arguments of `forward`.

    texts: `x=FILE.npy`, `x=[[1, 2]]`, or a type, `x=f32[1, 3, 224, 224]`, of which numbers are made up.

    Raises:
        GraphOptError: there is no such argument, or the text is no value.
    """
    names = list(inspect.signature(model.forward).parameters)
    found = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name not in names:
            raise GraphOptError(
                f"--value takes NAME=VALUE with an argument of the model ({', '.join(names)}), got {text!r}"
            )
        found[name] = _value(name, value)
    return found


def _value(name: str, text: str) -> torch.Tensor:
    if text.endswith(".npy"):
        return torch.as_tensor(read_array(name, text))
    typed = _TYPE.fullmatch(text)
    try:
        if typed is None:
            return torch.as_tensor(json.loads(text))
        dtype = DType(typed[1]).torch
    except (ValueError, TypeError) as error:
        raise GraphOptError(
            f"--value {name}={text} is neither a .npy file, nor numbers as [[1, 2]], nor a type as f32[1, 3, 224, 224]"
        ) from error
    shape = [int(size) for size in typed[2].split(",") if size.strip()]
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _folder(place: str) -> Path:
    """The folder of a repository: a local one, or in PyTorch's cache, where it is called owner_name_ref."""
    local = Path(place).expanduser()
    if (local / CONFIG).is_file():
        return local
    if local.is_dir():
        raise GraphOptError(f"{local} is no hub repository: it has no {CONFIG}")
    cache = Path(torch.hub.get_dir())
    repository, _, ref = place.partition(":")
    if repository.count("/") == 1:
        base = repository.replace("/", "_")
        for name in (ref,) if ref else ("main", "master"):
            if (cache / f"{base}_{name.replace('/', '_')}" / CONFIG).is_file():
                return cache / f"{base}_{name.replace('/', '_')}"
        raise GraphOptError(
            f"{place} is not in PyTorch's cache ({cache}), and graphopt downloads nothing; fetch it once with "
            f"torch.hub.load({place!r}, ...), or give a local folder"
        )
    raise GraphOptError(f"no such hub repository: {place}; give a folder with a {CONFIG}, or owner/name")


def _entries(folder: Path) -> list[str]:
    """The functions of a repository that can be called, without running it."""
    try:
        tree = ast.parse((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise GraphOptError(f"{folder / CONFIG} cannot be read: {error}") from error
    found: dict[str, None] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = None
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update((alias.asname or alias.name, None) for alias in node.names)
        elif isinstance(node, ast.Assign):
            found.update((target.id, None) for target in node.targets if isinstance(target, ast.Name))
    return [name for name in found if not name.startswith("_") and name not in ("dependencies", "annotations")]


def _run(doing: str, call: Any) -> Any:
    from graphopt.model_source import user_error

    try:
        return call()
    except Exception as error:  # it is the repository's code
        raise user_error(doing, error) from error
