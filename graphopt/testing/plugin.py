"""A pytest plugin: every pass that runs in a test is verified and validated on the way.

Use it by `pytest_plugins = ["graphopt.testing.plugin"]` in the top `conftest.py`. A test with passes that are wrong on
purpose (or a module, by `pytestmark`) is marked `unchecked_passes`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from graphopt.testing.watch import watching

MARKER = "unchecked_passes"


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", f"{MARKER}: run passes without verifying and validating each run")


@pytest.fixture(autouse=True)
def checked_passes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check each run of a pass in the test, unless it is marked otherwise."""
    if request.node.get_closest_marker(MARKER) is not None:
        yield
        return
    with watching():
        yield
