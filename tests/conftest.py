"""What all tests share: every pass that runs in a test is verified and validated on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["graphopt.testing.plugin"]

MACHINERY = Path(__file__).parent / "passmanager"
"""Tests of what does the checking: their passes are wrong on purpose, and they count what is run and copied."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if MACHINERY in item.path.parents:
            item.add_marker("unchecked_passes")
