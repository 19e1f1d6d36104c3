"""`check`: the public check of a pass on a graph in text, as a fixture that keeps what the pass returned."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.ir import Graph
from graphopt.passmanager import Pass, PassResult
from graphopt.testing import check as run_check


class Check:
    """Runs `graphopt.testing.check`. result, graph: what the pass returned, and the graph that it made."""

    result: PassResult
    graph: Graph

    def __call__(self, pass_: Pass, before: str, after: str | None = None, *args: Any, **options: Any) -> Graph:
        checked = run_check(pass_, before, after, *args, **options)
        self.result, self.graph = checked.result, checked.graph
        return checked.graph


@pytest.fixture
def check() -> Check:
    return Check()
