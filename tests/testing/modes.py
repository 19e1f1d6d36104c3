"""How many graphs a property sees: a few in the default run, thousands where GRAPHOPT_PROPERTY_GRAPHS says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings

from graphopt.testing import graphs


def count(default: int) -> int:
    """The number of graphs for a property."""
    return int(os.environ.get("GRAPHOPT_PROPERTY_GRAPHS", default))


def over_graphs(default: int, **options: Any) -> Callable[[Any], Any]:
    """Run a test over generated graphs, the same ones at each run."""
    configure = settings(
        max_examples=count(default),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    return lambda test: configure(given(graph=graphs(**options))(test))
