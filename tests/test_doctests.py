"""The examples in docstrings run, module by module, by package name (never by folder)."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import graphopt


def module_names() -> list[str]:
    """Every module of the installed package."""
    walked = pkgutil.walk_packages(graphopt.__path__, "graphopt.")
    extra = [
        found.name
        for package in ("graphopt.passes", "graphopt.backends")
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + ".")
    ]
    names = {"graphopt", "graphopt.passes", "graphopt.backends", *(found.name for found in walked), *extra}
    return sorted(name for name in names if not name.endswith("__main__"))


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {name} failed"
