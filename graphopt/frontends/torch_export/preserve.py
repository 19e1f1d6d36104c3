"""Tracing runs the model's own code. What that code stores on the model is undone, so capture leaves no trace."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from graphopt.ops.quiet import quiet

_LOGGERS = (
    "torch.export",
    "torch._export.non_strict_utils",
    "torch._subclasses.fake_tensor",
    "torch.fx.experimental.symbolic_shapes",
)


@contextmanager
def preserved(model: torch.nn.Module) -> Iterator[None]:
    """Restore every module's attributes and what its dictionaries hold (parameters, submodules, hooks), and the
    contents of tensors that are neither parameters nor buffers.

    Parameters and buffers are traced as fakes, so the traced code cannot write to them; other tensors are real.
    """
    saved = [(module, dict(module.__dict__), _registries(module)) for module in model.modules()]
    contents = [(t, t._version, t.detach().clone()) for t in _loose_tensors(model)]
    try:
        yield
    finally:
        for module, attributes, registries in saved:
            _restore(module.__dict__, attributes)
            for registry, entries in registries:
                _restore(registry, entries)
        with torch.no_grad():
            for tensor, version, copy in contents:
                if tensor._version != version:
                    tensor.copy_(copy)


def _registries(module: torch.nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(value, dict(value)) for value in module.__dict__.values() if isinstance(value, dict)]


def _restore(current: dict[str, Any], saved: dict[str, Any]) -> None:
    if current.keys() == saved.keys() and all(current[key] is value for key, value in saved.items()):
        return
    current.clear()
    current.update(saved)


def _loose_tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    registered = {id(t) for t in (*model.parameters(), *model.buffers())}
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, value in module.__dict__.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                for tensor in _tensors(value):
                    if id(tensor) not in registered and not tensor.is_inference():
                        found[id(tensor)] = tensor
    return list(found.values())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@contextmanager
def silent() -> Iterator[None]:
    """Keep PyTorch from logging what becomes one error, and from printing the half-traced graph."""
    stream = sys.stderr
    sys.stderr = _WithoutGraphs(stream)
    try:
        with quiet(*_LOGGERS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The tensor attribute", category=UserWarning)
            yield
    finally:
        sys.stderr = stream


class _WithoutGraphs:
    """A stream that drops the printed FX graphs of this thread."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread = threading.get_ident()
        self._dropped = False

    def write(self, text: str) -> int:
        if threading.get_ident() != self._thread:
            return self._stream.write(text)
        ends_dropped = self._dropped and text == "\n"
        self._dropped = text.lstrip().startswith("def forward(")
        return len(text) if self._dropped or ends_dropped else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
