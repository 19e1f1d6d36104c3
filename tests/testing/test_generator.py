"""The generator itself: valid, varied, repeatable, and shrinking to small graphs."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import find, settings

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError, UnknownNameError
from graphopt.ir import DType, Graph, TensorType, structurally_equal, verify
from graphopt.testing import (
    Domain,
    GraphBuilder,
    GraphStatistics,
    graphs,
    is_finite,
    random_graph,
    register_sampler,
    sample_bindings,
    sample_inputs,
    sampled_operators,
    unregister_sampler,
)

GRAPHS = [random_graph(seed) for seed in range(400)]
QUIET = settings(database=None, deadline=None, derandomize=True, max_examples=2000)
SEARCH = settings(QUIET, derandomize=False)


def values(graph: Graph) -> list[Any]:
    return [*graph.inputs, *graph.constants.values(), *(r for node in graph for r in node.results)]


def test_graphs_verify_and_run_without_nan_at_two_sizes() -> None:
    statistics = GraphStatistics()
    for graph in GRAPHS:
        verify(graph)
        sizes = list(sample_bindings(graph))
        assert len(sizes) == (2 if graph.symbols() else 1)
        inputs = [sample_inputs(graph, s, seed=i) for i, s in enumerate(sizes)]
        statistics.add(graph, discarded=not all(is_finite(graph, i) for i in inputs))
    assert statistics.graphs == 400
    assert statistics.discarded == 0
    assert len(statistics.operators) > 200
    assert 100 < statistics.symbolic < 300
    assert "400 graphs" in str(statistics)


def test_samplers_cover_far_more_than_sixty_operators() -> None:
    assert len(set(sampled_operators())) > 200


def test_graphs_have_the_features_that_break_compilers() -> None:
    found: Counter[str] = Counter()
    for graph in GRAPHS:
        shapes = [v.type.shape for v in values(graph) if isinstance(v.type, TensorType)]
        found["scalar"] += any(shape == () for shape in shapes)
        found["size 0"] += any(0 in shape for shape in shapes)
        found["size 1"] += any(1 in shape for shape in shapes)
        found["unused node"] += any(not r.num_uses for node in graph for r in node.results)
        found["repeated output"] += len(set(graph.outputs)) < len(graph.outputs)
        found["leaf as output"] += any(v.producer is None for v in graph.outputs)
        found["intermediate as output"] += any(v.num_uses > 1 for v in graph.outputs)
        found["location"] += any(node.location.line for node in graph)
        kinds = {c.constant.kind.value for c in graph.constants.values() if c.constant is not None}
        found.update(kinds)
        calls = [(node.op, node.operands, node.attributes) for node in graph]
        found["repeated call"] += len({(o.name, tuple(map(id, v)), a) for o, v, a in calls}) < len(calls)
        tensors = [c.constant.tensor for c in graph.constants.values() if c.constant is not None]
        found["copied constant"] += any(
            a is not b and a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
            for a in tensors
            for b in tensors
        )
        for dtype in (DType.F32, DType.F64, DType.F16, DType.I64, DType.I32, DType.BOOL):
            found[dtype.value] += any(isinstance(v.type, TensorType) and v.type.dtype is dtype for v in values(graph))
    missing = [name for name, number in found.items() if number < 3]
    assert not missing, found


def test_a_seed_repeats_its_graph_and_inputs() -> None:
    assert structurally_equal(random_graph(5), GRAPHS[5])
    first, second = (sample_inputs(GRAPHS[5], seed=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_samples_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    sample_inputs(random_graph(3), special=True)
    assert torch.equal(state, torch.get_rng_state())


def test_integer_inputs_are_small_indices_and_special_values_come_when_asked() -> None:
    graph = Graph()
    graph.add_input("i", TensorType(DType.I64, (50,)))
    graph.add_input("x", TensorType(DType.F32, (200,)))
    index, x = sample_inputs(graph)
    assert set(index.tolist()) == {0, 1, 2, 3}
    assert x.abs().max() <= 2 and (x == 0).any()
    special = sample_inputs(graph, special=True)[1]
    assert special.isnan().any() and special.isinf().any()


def test_shrinking_gives_one_small_node() -> None:
    def has_product(graph: Graph) -> bool:
        return any(node.op.base == "aten.matmul" for node in graph)

    # Each search is random, and may end beside the minimum.
    found = [find(graphs(), has_product, settings=SEARCH, random=Random(seed)) for seed in range(3)]
    assert all(len(graph) <= 6 for graph in found)
    small = min(found, key=len)
    assert len(small) == 1
    assert all(d <= 2 for v in values(small) for d in v.type.shape if isinstance(d, int))


def test_operators_and_groups_restrict_what_is_drawn() -> None:
    for seed in range(20):
        chosen = random_graph(seed, operators=["relu", "neg"], symbolic=False)
        assert {node.op.name for node in chosen} <= {"aten.relu", "aten.neg"}
        assert not chosen.symbols()
    drawn = {node.op.name for seed in range(60) for node in random_graph(seed, groups=["casts"])}
    assert drawn <= {"aten.to.dtype", "aten._to_copy", "aten.type_as"}


@pytest.mark.parametrize("wrong", [{"operators": ["rellu"]}, {"groups": ["unery"]}])
def test_unknown_operators_and_groups_are_named(wrong: dict[str, list[str]]) -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean"):
        graphs(**wrong)


def test_a_registered_sampler_is_drawn() -> None:
    @register_sampler("erfinv")
    def erfinv(b: GraphBuilder) -> None:
        b.emit("erfinv", b.within(b.tensor(), 0.5), domain=Domain(-0.5, 0.5, False))

    try:
        with pytest.raises(GraphOptError, match="'erfinv' has a sampler already"):
            register_sampler("erfinv")(erfinv)
        graph = random_graph(0, operators=["erfinv"])
        assert any(node.op.name == "aten.erfinv" for node in graph)
        Interpreter(graph).run(*sample_inputs(graph))
    finally:
        unregister_sampler("erfinv")
    assert "erfinv" not in sampled_operators()
