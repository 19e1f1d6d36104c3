"""Sample inputs: made up from types, and varied; never by the global random generator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.analysis import bind_sizes
from graphopt.ir import Graph
from graphopt.ir.dims import evaluate
from graphopt.ops import parse
from graphopt.passmanager.samples import synthesize, variations

TEXT = """
symbol B [1, 16]
symbol S [2, 64] multiple_of 2
input %ids: i64[B, S]
input %x: f32[B, S, 4]
input %y: f32[B, 2*S + 1]
input %n: int(S)
return %x
"""


def graph() -> Graph:
    return parse(TEXT)


def inputs(batch: int, length: int) -> list:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(3, 9, (batch, length), generator=generator),
        torch.rand(batch, length, 4, generator=generator) + 1,
        -torch.rand(batch, 2 * length + 1, generator=generator),
        length,
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 16), st.integers(1, 32).map(lambda n: 2 * n))
def test_every_variation_fits_the_types(batch: int, length: int) -> None:
    given_ = inputs(batch, length)
    found = list(variations(graph(), given_))
    for made, sizes in found:
        assert bind_sizes(graph().inputs, made) == sizes
        assert 1 <= sizes["B"] <= 16 and 2 <= sizes["S"] <= 64 and sizes["S"] % 2 == 0
        ids, x, y, n = made
        assert set(ids.unique().tolist()) <= set(given_[0].unique().tolist())
        assert ids.dtype is torch.int64 and x.min() >= 0.5 and x.max() <= 2 and y.max() <= 0 and n == sizes["S"]
        for value, tensor in zip(graph().inputs, made):
            if isinstance(tensor, torch.Tensor):
                assert list(tensor.shape) == [evaluate(d, sizes) for d in value.type.shape]
    # The last keeps the sizes; all before it differ in every symbol that has room.
    assert found[-1][1] == {"B": batch, "S": length}
    for _, sizes in found[:-1]:
        assert sizes["B"] != batch and sizes["S"] != length and sizes["B"] != sizes["S"]


def test_values_differ_even_at_the_same_sizes() -> None:
    given_ = inputs(4, 6)
    made, _ = list(variations(graph(), given_))[-1]
    assert not torch.equal(made[1], given_[1]) and torch.equal(made[0], given_[0])


def test_a_symbol_without_room_keeps_its_size() -> None:
    fixed = parse("symbol B [3, 3]\nsymbol N [1, 9]\ninput %x: f32[B, N]\nreturn %x")
    made, sizes = next(iter(variations(fixed, [torch.rand(3, 5)])))
    assert sizes == {"B": 3, "N": 4} and made[0].shape == (3, 4)


def test_integers_alone_have_no_variation_without_symbols() -> None:
    assert list(variations(parse("input %x: i64[4]\nreturn %x"), [torch.arange(4)])) == []


def test_an_empty_dim_grows() -> None:
    found = list(variations(parse("input %x: f32[N, 2]\nreturn %x"), [torch.empty(0, 2)]))
    assert found and all(made[0].shape[0] == sizes["N"] for made, sizes in found)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "f64"])
def test_made_up_inputs_are_normal_numbers_at_small_distinct_sizes(dtype: str) -> None:
    made = synthesize(parse(f"input %x: {dtype}[A, B, 8]\ninput %y: f32[A, 2*B]\nreturn %x"))
    assert made is not None
    assert [list(t.shape) for t in made] == [[4, 5, 8], [4, 10]]
    assert abs(made[0].double().mean()) < 0.5 and 0.5 < made[0].double().std() < 1.5


def test_ranges_bound_the_made_up_sizes() -> None:
    made = synthesize(parse("symbol A [20, 30] multiple_of 4\nsymbol B [1, 2]\ninput %x: f32[A, B]\nreturn %x"))
    assert made is not None and list(made[0].shape) == [20, 1]


def test_integers_are_not_made_up() -> None:
    assert synthesize(parse("input %x: f32[4]\ninput %i: i64[4]\nreturn %x")) is None
    assert synthesize(parse("input %x: f32[4]\ninput %i: bool[4]\nreturn %x")) is None


def test_the_global_generator_is_untouched() -> None:
    state = torch.random.get_rng_state()
    list(variations(graph(), inputs(3, 4)))
    synthesize(parse("input %x: f32[4]\nreturn %x"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_two_calls_agree() -> None:
    first, second = ([m for m, _ in variations(graph(), inputs(3, 4))] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in zip(a, b))


def test_another_size_is_another_for_what_derives_from_it() -> None:
    """A stride of 4 makes 128 and 127 the same 32: a number baked in from it would not show."""
    graph = parse("""
    input %x: f32[N, 1, L]
    parameter %w: f32[2, 1, 3]
    %a = aten.conv1d(%x, %w) {stride=(4,), padding=(1,)}
    %b = aten.sum.dim_IntList(%a) {dim=(2,)}
    return %b""")
    made, sizes = next(variations(graph, [torch.zeros(3, 1, 128)]))
    assert sizes["L"] != 128 and made[0].shape[2] == sizes["L"]
    assert torch.conv1d(made[0], torch.zeros(2, 1, 3), stride=4, padding=1).shape[2] != 32
