"""The properties of the whole compiler, over generated graphs."""

from __future__ import annotations

import pytest

from graphopt.ir import Graph, difference
from graphopt.passmanager import PassContext, get_pass
from graphopt.testing import Unsupported
from graphopt.testing.suite import (
    TARGETS,
    Property,
    backend_properties,
    graph_properties,
    pass_properties,
    pipeline_properties,
)
from tests.testing.modes import over_graphs

BACKENDS = backend_properties()
PASSES = pass_properties()
PIPELINES = pipeline_properties(TARGETS)


@over_graphs(60)
def test_graphs_are_sound_and_survive_text_and_file(graph: Graph) -> None:
    for property_ in graph_properties().values():
        property_(graph)


@pytest.mark.parametrize("name", BACKENDS)
def test_backends_compute_what_the_graph_does(name: str) -> None:
    holds_or_is_unsupported(BACKENDS[name], 35)


@pytest.mark.parametrize("name", PIPELINES)
def test_default_pipelines_keep_the_function(name: str) -> None:
    holds_or_is_unsupported(PIPELINES[name], 25)


@pytest.mark.unchecked_passes  # the property itself checks, and more
@pytest.mark.parametrize("name", PASSES)
def test_passes_keep_their_word(name: str) -> None:
    holds_or_is_unsupported(PASSES[name], 15)


def holds_or_is_unsupported(property_: Property, default: int) -> None:
    @over_graphs(default)
    def holds(graph: Graph) -> None:
        try:
            property_(graph)
        except Unsupported:
            return

    holds()


@over_graphs(25)
def test_canonicalize_is_idempotent(graph: Graph) -> None:
    canonicalize, once = get_pass("canonicalize"), graph.clone()
    canonicalize.run(once, PassContext())
    twice = once.clone()
    assert not canonicalize.run(twice, PassContext()).changed
    assert difference(once, twice) is None
