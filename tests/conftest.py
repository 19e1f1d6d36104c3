"""What all tests share: every pass that runs in a test is verified and validated on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

pytest_plugins = ["graphopt.testing.plugin"]

# A choice of engines that an earlier run kept would decide what a test sees.
os.environ.setdefault("GRAPHOPT_ENGINE_CACHE", "no")

MACHINERY = Path(__file__).parent / "passmanager"
"""Tests of what does the checking: their passes are wrong on purpose, and they count what is run and copied."""

# The same examples in every run, so that a change alone decides whether the suite passes. Other examples are searched
# with --hypothesis-profile=search, and by benchmarks/properties.py for as long as one likes.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile("repeatable")
# Hypothesis also draws constants that it finds in the modules imported so far, which differ from worker to worker.
providers._get_local_constants = Constants


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if MACHINERY in item.path.parents:
            item.add_marker("unchecked_passes")
