"""Passes of third parties that are not installed: a file or a module is imported, and what it defines gets known.

    graphopt opt failure.gir --plugin rules.py          graphopt compile net.py:build -o net.onnx --plugin my.rules

Every rule, pass and class of passes at the top level of the module is known by its name, as if it had been registered.
Importing runs the module, so name only files that you trust.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.model_source import load_module
from graphopt.passmanager.base import Pass
from graphopt.passmanager.registry import factory_name, registry
from graphopt.rewrite import Rule


def load_plugin(text: str) -> list[str]:
    """Import a module or a file, make its passes known, and return their names.

    Raises:
        GraphOptError: it cannot be imported; one of its passes has the name of an installed one.
    """
    try:
        module = load_module(text)
    except GraphOptError as error:
        remedy = "what compiles or runs a model belongs under `if __name__ == '__main__':`"
        raise GraphOptError(f"cannot import the plug-in {text}: {error}; {remedy}") from error
    names = []
    for name, factory in _defined(module):
        if registry.is_installed(name):
            raise GraphOptError(f"{text} defines a pass {name!r}, but an installed one has that name; choose another")
        registry.unregister(name)
        registry.register(factory, name)
        names.append(name)
    return names


def _defined(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Name and factory of what a module defines; a class of passes comes before its instances."""
    values = list(vars(module).values())
    classes = [v for v in values if isinstance(v, type) and issubclass(v, Pass) and v.__module__ == module.__name__]
    for cls in classes:
        yield factory_name(cls), cls
    for value in values:
        if isinstance(value, Rule):
            yield value.label, value
        elif isinstance(value, Pass) and type(value) not in classes and not registry.is_installed(value.name):
            yield value.name, value
