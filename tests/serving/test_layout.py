"""Joining requests and splitting results, and the models for which that cannot be done."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.errors import GraphOptError, UnknownNameError
from graphopt.ops import parse
from graphopt.serving.layout import BatchLayout

GRAPH = parse("""symbol b [1, 64]
symbol s [1, 64]
input %x: f32[b, s, 2]
input %y: f32[s, b]
%z: f32[b, s, 2] = aten.relu(%x)
return %z, %y""")


def test_the_layout_is_read_off_the_types() -> None:
    layout = BatchLayout.of(GRAPH, 0)
    assert [place.rows for place in layout.inputs] == [0, 1]
    assert [place.rows for place in layout.outputs] == [0, 1]
    assert [s.name for s in layout.lengths] == ["s"]
    assert layout.measure([torch.ones(3, 5, 2), torch.ones(5, 3)]) == (3, (5,))


requests = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=6)


@given(requests, st.integers(0, 3))
def test_split_undoes_join(shapes: list[tuple[int, int]], more: int) -> None:
    layout = BatchLayout.of(GRAPH, {"x": -1, "y": 7})
    flats = [[torch.randn(b, s, 2), torch.randn(s, b)] for b, s in shapes]
    longest = max(s for _, s in shapes) + more
    joined = layout.join(flats, (longest,))
    assert joined[0].shape == (sum(b for b, _ in shapes), longest, 2)
    assert int((joined[1] == 7).sum()) == sum(b * (longest - s) for b, s in shapes)
    for flat, answer in zip(flats, layout.split(joined, [b for b, _ in shapes], [(s,) for _, s in shapes])):
        assert all(torch.equal(a, b) for a, b in zip(flat, answer))
        assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in answer)


class Total(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


def test_a_result_without_rows_is_refused() -> None:
    model = graphopt.compile(Total(), (torch.ones(2, 3),), target="fx", dynamic_shapes="batch")
    with pytest.raises(GraphOptError, match=r"output 0 .* does not hold the rows of a batch"):
        model.serve()


def test_a_model_of_fixed_sizes_is_refused() -> None:
    model = graphopt.compile(nn.ReLU(), (torch.ones(2, 3),), target="fx")
    with pytest.raises(GraphOptError, match='dynamic_shapes="batch"'):
        model.serve()


def test_padding_names_inputs() -> None:
    with pytest.raises(UnknownNameError, match="xx"):
        BatchLayout.of(GRAPH, {"xx": 1})
    with pytest.raises(GraphOptError, match="no value for 'y'"):
        BatchLayout.of(GRAPH, {"x": 1})
