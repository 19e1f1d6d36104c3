from __future__ import annotations

import pytest
import torch

from graphopt.analysis.interpreter import run_graph
from graphopt.ops import parse
from graphopt.passes.legalize import Legalize
from graphopt.passmanager import PassContext
from graphopt.rewrite import Contract
from graphopt.testing import assert_equivalent

X = "input %x: f32[N, 4, 3]\n"


@pytest.mark.parametrize(("exponent", "products"), [(4, 2), (5, 3), (7, 4), (8, 3), (16, 4)])
def test_integer_powers(exponent: int, products: int) -> None:
    graph = parse(f"{X}%r = aten.pow.Tensor_Scalar(%x) {{exponent={exponent}}}\nreturn %r")
    after = Legalize(target="cpu")(graph)
    assert [n.name for n in after] == ["aten.mul.Tensor"] * products
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING)


@pytest.mark.parametrize("exponent", ["2", "3", "-4", "17", "4.5", "0.5"])
def test_other_powers_stay(check, exponent: str) -> None:
    check(Legalize(target="cpu"), f"{X}%r = aten.pow.Tensor_Scalar(%x) {{exponent={exponent}}}\nreturn %r")


def test_integers_stay(check) -> None:
    check(Legalize(target="onnx"), "input %x: i64[N]\n%r = aten.pow.Tensor_Scalar(%x) {exponent=4}\nreturn %r")


def test_three_halves(check) -> None:
    check(
        Legalize(target="cpu"),
        X + "%a = aten.relu(%x)\n%r = aten.pow.Tensor_Scalar(%a) {exponent=1.5}\nreturn %r",
        X + "%a = aten.relu(%x)\n%s = aten.sqrt(%a)\n%r = aten.mul.Tensor(%a, %s)\nreturn %r",
        applied={"pow-three-halves": 1},
        special=False,
    )


def test_mish_in_the_tails_and_in_float64() -> None:
    graph = parse("input %x: f64[2001]\n%r = aten.mish(%x)\nreturn %r")
    after = Legalize(target="onnxruntime")(graph)
    assert all(node.name != "aten.mish" for node in after)
    x = torch.linspace(-300, 300, 2001, dtype=torch.float64)
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_over_an_inner_axis(check, name: str) -> None:
    graph = parse(f"{X}%r = aten.{name}.int(%x) {{dim=1}}\nreturn %r")
    after = Legalize(target="onnx")(graph)
    assert len(after) == (5 if name == "softmax" else 6)
    assert_equivalent(graph, after, contract=Contract.REASSOCIATING)
    check(Legalize(target="onnx"), f"{X}%r = aten.{name}.int(%x) {{dim=-1}}\nreturn %r", special=False)
    check(Legalize(target="cpu"), f"{X}%r = aten.{name}.int(%x) {{dim=1}}\nreturn %r", special=False)


def test_target_of_the_context() -> None:
    graph = parse(f"{X}%r = aten.mish(%x)\nreturn %r")
    assert not Legalize().run(graph.clone(), PassContext(target="fx")).changed
    assert Legalize().run(graph, PassContext(target="onnx")).changed
