"""Inputs made up from types: of sizes that the graph runs on, with indices that fit what they index."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.analysis.index_ranges import index_limits
from graphopt.ir import Fixed, Graph
from graphopt.ops import parse
from graphopt.passmanager.made_up import make_inputs


def limits(text: str) -> list[list[str]]:
    graph = parse(text)
    return [[str(dim) for dim in dims] for dims in index_limits(graph).values()]


def test_an_index_is_followed_through_integer_arithmetic() -> None:
    assert limits("""
        input %i: i64[B]
        parameter %table: f32[30, 8]
        %j = aten.add.Scalar(%i) {other=2}
        %k = aten.clamp(%j) {min=0}
        %y = aten.embedding(%table, %k)
        return %y""") == [["30"]]


def test_every_table_counts_and_a_cast_to_float_ends_the_way() -> None:
    assert limits("""
        input %i: i64[B]
        input %m: i64[B]
        parameter %a: f32[30, 8]
        parameter %b: f32[8, 20]
        %x = aten.index_select(%b, %i) {dim=1}
        %y = aten.embedding(%a, %i)
        %f = aten.to.dtype(%m) {dtype=f32}
        %z = aten.sum(%f)
        return %x, %y, %z""") == [["20", "30"], []]


def test_indices_by_position_and_lengths_that_are_symbols() -> None:
    assert limits(
        """
        input %x: f32[S, T]
        input %i: i64[B]
        input %j: i64[B]
        %y = aten.index.Tensor(%x, %i, %j) {indices=(0, 1)}
        return %y""".replace(" {indices=(0, 1)}", "")
    ) == [["S"], ["T"]]


@pytest.mark.parametrize("dtype", ["i64", "i32", "u8"])
def test_indices_are_below_the_length(dtype: str) -> None:
    graph = parse(f"""
        input %i: {dtype}[B, 50]
        parameter %table: f32[3, 8]
        %k = aten.to.dtype(%i) {{dtype=i64}}
        %y = aten.embedding(%table, %k)
        return %y""")
    made = make_inputs(graph)
    assert made is not None and set(made[0].flatten().tolist()) == {0, 1, 2}
    run_graph(graph, *made)


def test_other_integers_are_bits_and_bytes_are_bytes() -> None:
    made = make_inputs(parse("input %m: i64[40]\ninput %b: bool[40]\ninput %p: u8[400]\nreturn %m"))
    assert made is not None
    assert set(made[0].tolist()) == {0, 1} and set(made[1].tolist()) == {False, True} and made[2].max() > 200


def test_sizes_are_tried_until_the_graph_runs() -> None:
    graph = parse("""
        input %x: f32[n, 1, h, w]
        %a = aten.max_pool2d(%x) {kernel_size=(8, 8)}
        %b = aten.max_pool2d(%a) {kernel_size=(4, 4)}
        return %b""")
    made = make_inputs(graph)
    assert made is not None and made[0].shape[2] >= 32 <= made[0].shape[3]


def test_what_cannot_run_or_be_made_up_is_not() -> None:
    impossible = (
        "input %x: f32[n]\ninput %i: i64[k]\n%y = aten.add.Tensor(%x, %x)\n%z = aten.reshape(%y) {shape=(n, 1)}"
    )
    assert make_inputs(parse(f"{impossible}\nreturn %z")) is not None
    assert make_inputs(parse("input %s: string[3]\nreturn %s")) is None
    assert make_inputs(parse("input %q: f4e2m1[3]\nreturn %q")) is None
    assert make_inputs(parse("input %x: f32[100000, 100000]\nreturn %x")) is None


def with_fixed(graph: Graph, index: int, tensor: torch.Tensor) -> Graph:
    from graphopt.ir import Signature, Slot

    tree = torch.utils._pytree.tree_structure(((0, 0), {}))
    leaves = (Slot(0), Slot(1))
    signature = Signature(tree, torch.utils._pytree.tree_structure(0), leaves, (Slot(0),))
    graph.signature = replace(signature, fixed=(Fixed.of(index, tensor),))
    return graph


def test_given_and_fixed_inputs_are_taken_and_their_sizes_bind() -> None:
    graph = parse("input %x: f32[n, 4]\ninput %y: f32[n, 2]\nreturn %x")
    x = torch.ones(7, 4)
    made = make_inputs(graph, {"x": x})
    assert made is not None and made[0] is x and made[1].shape == (7, 2)
    fixed = torch.tensor([3, 4])
    made = make_inputs(with_fixed(parse("input %x: f32[n]\ninput %s: i64[2]\nreturn %x"), 1, fixed))
    assert made is not None and torch.equal(made[1], fixed)


def test_two_calls_agree_and_the_global_generator_is_untouched() -> None:
    graph, state = parse("input %x: f32[n, 4]\ninput %i: i64[n]\nreturn %x"), torch.random.get_rng_state()
    first, second = make_inputs(graph), make_inputs(graph)
    assert first is not None and second is not None
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "tensor", [torch.tensor(3), torch.tensor([1.5, float("nan")]), torch.tensor([[True], [False]]), torch.empty(0)]
)
def test_fixed_contents_know_themselves_and_nothing_else(tensor: torch.Tensor) -> None:
    fixed = Fixed.of(0, tensor)
    assert fixed.holds(tensor.clone()) and torch.equal(fixed.tensor().isnan(), tensor.isnan())
    assert not fixed.holds(tensor.reshape(-1, 1, 1)) and not fixed.holds(tensor.to(torch.complex64))
    assert not fixed.holds(None) and (not tensor.numel() or not fixed.holds(torch.zeros_like(tensor)))
