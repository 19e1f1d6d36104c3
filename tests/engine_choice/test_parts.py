"""Cutting graphs into parts: they compute what the whole does, and the path through them is the cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import Interpreter
from graphopt.engine_choice.parts import Chain, cuts, is_divisible, split
from graphopt.engine_choice.path import cheapest, joining
from graphopt.ir import Graph, verify
from graphopt.ops import parse
from graphopt.passmanager.compare import exact_difference
from graphopt.targets import get_engine
from graphopt.testing import graphs, sample_bindings, sample_inputs
from tests.zoo import MODELS

CHAIN = """
input %x: f32[n, 16]
parameter %w: f32[16, 16]
%a = linear(%x, %w)
%b = relu(%a)
%c = linear(%b, %w)
%d = add.Tensor(%c, %b)
%e = linear(%d, %w)
%f = tanh(%e)
%g = mul.Tensor(%f, %x)
return %g"""


def test_cuts_are_narrow_and_shares_alike() -> None:
    graph = parse(CHAIN)
    found = cuts(graph, {"n": 64}, 3)
    assert found == sorted(set(found)) and 1 <= len(found) <= 2
    for cut in found:
        before, after = graph.nodes[:cut], graph.nodes[cut:]
        crossing = {v for n in after for v in n.inputs if v.producer in before}
        assert 0 < len(crossing) <= 2


@pytest.mark.parametrize("engines", [("eager", "onnxruntime"), ("openvino", "eager"), ("onnxruntime", "openvino")])
def test_a_chain_of_engines_at_several_sizes(engines: tuple[str, str]) -> None:
    graph = parse(CHAIN)
    parts = split(graph, [3, len(graph)])
    for part in parts:
        verify(part.graph)
    chain = Chain(graph, parts, [get_engine(name).load(part.graph) for name, part in zip(engines, parts)])
    whole = get_engine("eager").load(graph)
    for n in (1, 5):
        x = torch.randn(n, 16)
        torch.testing.assert_close(chain.run([x]), whole.run([x]), rtol=1e-5, atol=1e-6)


@given(data=st.data())
def test_parts_compute_what_the_whole_does(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    if not is_divisible(graph) or len(graph) < 2:
        return
    inputs = sample_inputs(graph, next(iter(sample_bindings(graph))))
    ends = [*sorted(data.draw(st.sets(st.integers(1, len(graph) - 1), max_size=3))), len(graph)]
    parts = split(graph, ends)
    chain = Chain(graph, parts, [_Interpreted(part.graph) for part in parts])
    for got, want in zip(chain.run(inputs), _Interpreted(graph).run(inputs)):
        assert exact_difference(want, got, bitwise=False) is None


@pytest.mark.parametrize("name", ["hf-bert", "resnet8", "shufflenet", "hf-gpt2"])
def test_real_models_in_parts(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs(batch=2)
    graph = graphopt.trace(entry.build(), args, kwargs, dynamic_shapes=entry.dynamic_shapes())
    assert is_divisible(graph)
    made = graphopt.compile(entry.build(), args, kwargs, target="eager", dynamic_shapes=entry.dynamic_shapes())
    ends = [*cuts(made.graph, {}), len(made.graph)]
    assert len(ends) > 1
    parts = split(made.graph, ends)
    names = ("onnxruntime", "eager") * len(parts)
    chain = Chain(made.graph, parts, [get_engine(n).load(part.graph) for n, part in zip(names, parts)])
    args, kwargs = entry.inputs(batch=3)
    flat = made._program.convention.flatten(args, kwargs)  # type: ignore[union-attr]
    for got, want in zip(chain.run(flat), made._program.run(flat)):  # type: ignore[union-attr]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_what_is_written_back_or_drawn_is_not_cut() -> None:
    assert not is_divisible(parse("input %x: f32[4]\n%y = bernoulli(%x)\nreturn %y"))
    updated = parse('input %x: f32[4]\n%y = relu(%x)\nreturn %y\nupdate "x" = %y')
    assert not is_divisible(updated)


times = st.floats(0.1, 10.0)


def rows_of(parts: int) -> st.SearchStrategy[list[list[float]]]:
    return st.lists(st.lists(times, min_size=parts, max_size=parts), min_size=2, max_size=3)


@given(
    st.integers(1, 4).flatmap(rows_of),
    st.lists(st.floats(0, 0.1), min_size=3, max_size=3),
    st.lists(st.floats(0, 3.0), min_size=9, max_size=9),
)
def test_the_path_is_the_cheapest_of_all(rows: list[list[float]], saved: list[float], changes: list[float]) -> None:
    alone = {f"e{i}": row for i, row in enumerate(rows)}
    joined = {name: saved[i] for i, name in enumerate(alone)}
    over = {pair: changes[i] for i, pair in enumerate(product(alone, repeat=2))}

    def cost(path: Sequence[str]) -> float:
        total = sum(alone[name][part] for part, name in enumerate(path))
        return total + sum(-joined[a] if a == b else over[a, b] for a, b in pairwise(path))

    path, found = cheapest(alone, joined, over)
    assert found == pytest.approx(min(map(cost, product(alone, repeat=len(rows[0])))))
    assert found == pytest.approx(cost(path))


def test_joining_never_costs() -> None:
    assert joining([1.0, 1.0], 3.0) == 0.0 and joining([2.0], 1.0) == 1.0


class _Interpreted:
    def __init__(self, graph: Graph) -> None:
        self._run = Interpreter(graph)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        return list(self._run.run(*inputs))
