"""Branches and loops, with sizes, stored tensors and training flags inside."""

from __future__ import annotations

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.errors import EmissionError
from graphopt.ops import parse
from tests.backends.fx.helpers import emit

COND = """
input %x: f32[N, 4]
parameter %w: f32[4, 4] requires_grad
%s = sum(%x)
%p = gt.Scalar(%s) {other=0}
%y, %z = higher_order.cond(%p, %x, %w) [
  graph yes {
    input %a: f32[N, 4]
    input %b: f32[4, 4]
    constant %k: f32[4] = (1., 2., 3., 4.)
    %m = mm(%a, %b)
    %n = add.Tensor(%m, %k)
    %r = reshape(%n) {shape=(2*N, 2)}
    %q = reshape(%r) {shape=(N, 4)}
    return %q, %q
  }
  graph no {
    input %a: f32[N, 4]
    input %b: f32[4, 4]
    %t = reshape(%a) {shape=(N, 4)}
    return %a, %t
  }
]
return %y, %z"""

WHILE = """
input %n: i64[]
input %x: f32[3]
input %d: f32[3]
%i, %y = higher_order.while_loop(%n, %x, %d) [
  graph c {
    input %i: i64[]
    input %x: f32[3]
    input %d: f32[3]
    %p = gt.Scalar(%i) {other=0}
    return %p
  }
  graph b {
    input %i: i64[]
    input %x: f32[3]
    input %d: f32[3]
    constant %k: f32[3] = (1., 2., 3.)
    %j = sub.Scalar(%i) {other=1}
    %y = add.Tensor(%x, %d)
    %z = mul.Tensor(%y, %k)
    return %j, %z
  }
]
return %y, %i"""

SIZE_FROM_OUTSIDE = """
input %x: f32[N, 4]
input %p: bool[]
%y = higher_order.cond(%p, %p) [
  graph yes {
    input %q: bool[]
    %o = full() {size=(2*N,), fill_value=1.0}
    return %o
  }
  graph no {
    input %q: bool[]
    %o = full() {size=(2*N,), fill_value=2.0}
    return %o
  }
]
return %y"""

NESTED = """
input %x: f32[2]
input %p: bool[]
input %q: bool[]
%y = higher_order.cond(%p, %x, %q) [
  graph outer_yes {
    input %a: f32[2]
    input %b: bool[]
    %c = higher_order.cond(%b, %a) [
      graph inner_yes {
        input %a: f32[2]
        constant %k: f32[2] = (5., 6.)
        %r = add.Tensor(%a, %k)
        return %r
      }
      graph inner_no {
        input %a: f32[2]
        %r = neg(%a)
        return %r
      }
    ]
    return %c
  }
  graph outer_no {
    input %a: f32[2]
    input %b: bool[]
    %r = mul.Scalar(%a) {other=3.0}
    return %r
  }
]
return %y"""


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("batch", [1, 3])
def test_cond_takes_either_branch(sign: int, batch: int) -> None:
    graph = parse(COND)
    x = sign * torch.rand(batch, 4)
    for got, expected in zip(emit(graph)(x), run_graph(graph, x)):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_while_loop_runs_as_often_as_needed(steps: int) -> None:
    graph = parse(WHILE)
    inputs = torch.tensor(steps), torch.ones(3), torch.rand(3)
    for got, expected in zip(emit(graph)(*inputs), run_graph(graph, *inputs)):
        assert torch.equal(got, expected)


def test_cond_trains() -> None:
    module = emit(parse(COND))
    x = torch.rand(3, 4)
    module(x)[0].sum().backward()
    assert torch.allclose(module.w.grad, x.sum(0)[:, None].expand(4, 4))


@pytest.mark.parametrize("which", [True, False])
def test_regions_get_the_sizes_that_their_inputs_don_t_show(which: bool) -> None:
    graph = parse(SIZE_FROM_OUTSIDE)
    module = emit(graph)
    for batch in (1, 4):
        inputs = torch.ones(batch, 4), torch.tensor(which)
        assert torch.equal(module(*inputs)[0], run_graph(graph, *inputs)[0])


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
def test_nested_regions(which: tuple[bool, bool]) -> None:
    graph = parse(NESTED)
    inputs = torch.rand(2), torch.tensor(which[0]), torch.tensor(which[1])
    module = emit(graph)
    assert torch.equal(module(*inputs)[0], run_graph(graph, *inputs)[0])
    assert [name for name, _ in module.named_buffers()] == ["k"]


def test_training_flags_inside_a_branch_follow_the_module() -> None:
    graph = parse("""
input %x: f32[64]
input %p: bool[]
%y = higher_order.cond(%p, %x) [
  graph yes {
    input %a: f32[64]
    %r = dropout(%a) {p=0.5, train="follow"}
    return %r
  }
  graph no {
    input %a: f32[64]
    %r = neg(%a)
    return %r
  }
]
return %y""")
    module = emit(graph)
    inputs = torch.ones(64), torch.tensor(True)
    assert torch.equal(module(*inputs)[0], inputs[0])
    with torch.no_grad():
        assert 0 in module.train()(*inputs)[0]


@pytest.mark.parametrize(
    ("text", "inputs", "dynamic"),
    [
        (COND, (torch.rand(3, 4),), True),
        (WHILE, (torch.tensor(2), torch.ones(3), torch.ones(3)), False),
        (SIZE_FROM_OUTSIDE, (torch.rand(3, 4), torch.tensor(True)), True),
        (NESTED, (torch.rand(2), torch.tensor(True), torch.tensor(False)), False),
    ],
    ids=["cond", "while", "size", "nested"],
)
def test_exports_again(text: str, inputs: tuple[torch.Tensor, ...], dynamic: bool) -> None:
    module = emit(parse(text))
    shapes = ({0: torch.export.Dim("n", min=2)}, *[None] * (len(inputs) - 1)) if dynamic else None
    exported = torch.export.export(module, inputs, dynamic_shapes=shapes).module()
    for given in (inputs, (torch.cat([-inputs[0]] * 2), *inputs[1:])) if dynamic else (inputs,):
        for got, expected in zip(exported(*given), module(*given)):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("text", [COND, WHILE], ids=["cond", "while"])
def test_compiles(text: str) -> None:
    module = emit(parse(text))
    inputs = (torch.tensor(2), torch.ones(3), torch.ones(3)) if text is WHILE else (torch.rand(3, 4),)
    with torch.no_grad():
        compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
        for got, expected in zip(compiled(*inputs), module(*inputs)):
            assert torch.allclose(got, expected)


def test_a_branch_that_updates_a_buffer_is_an_error() -> None:
    graph = parse("""
input %x: f32[2]
input %p: bool[]
%y = higher_order.cond(%p, %x) [
  graph yes {
    input %a: f32[2]
    %r = neg(%a)
    return %r
    update "a" = %r
  }
  graph no {
    input %a: f32[2]
    return %a
  }
]
return %y""")
    with pytest.raises(EmissionError, match=r"cond.*updates a; return the new value"):
        emit(graph)
