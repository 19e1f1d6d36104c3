"""Dim expressions become sizes at run time."""

from __future__ import annotations

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.errors import EmissionError
from graphopt.ops import parse
from tests.backends.fx.helpers import emit

EXPRESSIONS = [
    "N",
    "2*N + 3",
    "N*N",
    "N*M - M + 1",
    "(N + 1)//2",
    "N%3",
    "(N + 2)%4 + M",
    "max(N, 4)",
    "min(N, M)",
    "max(2*N - 1, 3, M)",
    "(N*M)//(M + 1) + 5",
    "7 - min(N, 7)",
    "M - N//2 + 9",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@pytest.mark.parametrize("sizes", [(3, 5), (8, 2), (1, 1), (0, 1)])
def test_arithmetic_at_several_sizes(expression: str, sizes: tuple[int, int]) -> None:
    graph = parse(f"""
        input %x: f32[N, 2]
        input %y: f32[3, M]
        %z = full() {{size=({expression}, 2), fill_value=1.5}}
        return %z""")
    inputs = torch.ones(sizes[0], 2), torch.ones(3, sizes[1])
    assert torch.equal(emit(graph)(*inputs)[0], run_graph(graph, *inputs)[0])


@pytest.mark.parametrize("batch", [0, 1, 2, 7])
def test_reshape_keeps_a_dynamic_batch(batch: int) -> None:
    graph = parse("""
        input %x: f32[N, 3, 4]
        %a = reshape(%x) {shape=(N, 12)}
        %b = reshape(%a) {shape=(2*N, 6)}
        %c = expand(%b) {size=(N, 2*N, 6)}
        %d = sum.dim_IntList(%c) {dim=(0,)}
        return %d""")
    x = torch.arange(batch * 12.0).reshape(batch, 3, 4)
    assert torch.equal(emit(graph)(x)[0], run_graph(graph, x)[0])


def test_a_size_is_read_and_computed_once() -> None:
    graph = parse("""
        input %x: f32[N, 4]
        %a = reshape(%x) {shape=(2*N, 2)}
        %b = reshape(%a) {shape=(N, 4)}
        %c = reshape(%b) {shape=(2*N, 2)}
        return %c""")
    code = emit(graph).code
    assert code.count(".size(") == 1
    assert code.count("2 * N") == 1


def test_no_size_is_read_where_none_is_needed() -> None:
    graph = parse("input %x: f32[N, 4]\n%y = relu(%x)\nreturn %y")
    assert "size" not in emit(graph).code


def test_solves_for_a_symbol_behind_a_factor_and_an_offset() -> None:
    graph = parse("""
        input %x: f32[3*N + 2]
        %y = full() {size=(N, N), fill_value=1.0}
        return %y""")
    for n in (0, 1, 4):
        assert emit(graph)(torch.zeros(3 * n + 2))[0].shape == (n, n)


def test_a_symbol_with_a_divisor() -> None:
    graph = parse("""
        symbol S [8, inf] multiple_of 8
        input %x: f32[S]
        %y = reshape(%x) {shape=(8, S//8)}
        %z = reshape(%y) {shape=(S//2, 2)}
        return %z""")
    for size in (8, 24):
        assert emit(graph)(torch.ones(size))[0].shape == (size // 2, 2)


def test_data_dependent_sizes_come_from_the_result_that_makes_them() -> None:
    graph = parse("""
        input %x: f32[N]
        %i: i64[K, 1] = nonzero(%x)
        %a = reshape(%i) {shape=(K,)}
        %b = full() {size=(K + N,), fill_value=2.0}
        return %a, %b""")
    x = torch.tensor([0.0, 1.0, 0.0, 3.0])
    for given in (x, torch.zeros(3)):
        for got, expected in zip(emit(graph)(given), run_graph(graph, given)):
            assert torch.equal(got, expected)


def test_a_scalar_input_is_its_symbol() -> None:
    graph = parse("""
        input %n: int(N)
        input %x: f32[4]
        %y = full() {size=(2*N,), fill_value=1.0}
        return %y""")
    assert emit(graph)(3, torch.zeros(4))[0].shape == (6,)


def test_a_size_that_nothing_shows_is_an_error_that_names_it() -> None:
    graph = parse("""
        input %x: f32[4]
        %y: f32[Q] = full() {size=(Q,), fill_value=1.0} @ "model.py":7 "head"
        return %y""")
    with pytest.raises(EmissionError, match=r"size Q.*model\.py:7 head"):
        emit(graph)
