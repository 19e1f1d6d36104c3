"""The interpreter against PyTorch called by hand; double precision; sizes bound at a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from graphopt.analysis import Interpreter, bind_sizes, run_graph
from graphopt.errors import GraphOptError, InputError
from graphopt.ir import Node, verify
from graphopt.ops import parse

NETWORK = """
input %x: f32[n, 3, 8, 8]
parameter %w: f32[4, 3, 3, 3]
parameter %b: f32[4]
parameter %scale: f32[4]
parameter %shift: f32[4]
buffer %mean: f32[4]
buffer %var: f32[4]
parameter %fc: f32[5, 64]
%c = conv2d(%x, %w, %b) {stride=2, padding=1}
%n = batch_norm(%c, %scale, %shift, %mean, %var) {training="follow", momentum=0.1, eps=1e-5, cudnn_enabled=false}
%r = relu(%n)
%v = view(%r) {size=(n, 64)}
%l = linear(%v, %fc)
%p = softmax.int(%l) {dim=-1}
%values, %indices = topk(%p) {k=2}
return %p, %values, %indices"""


def by_hand(graph: Any, x: torch.Tensor) -> list[torch.Tensor]:
    w = {name: value.constant.tensor.to(x.dtype) for name, value in graph.constants.items()}
    y = F.conv2d(x, w["w"], w["b"], stride=2, padding=1)
    y = F.relu(F.batch_norm(y, w["mean"], w["var"], w["scale"], w["shift"]))
    p = F.softmax(F.linear(y.reshape(len(x), 64), w["fc"]), -1)
    return [p, *p.topk(2)]


@pytest.mark.parametrize("batch", [1, 3])
def test_network_equals_functions_called_by_hand(batch: int) -> None:
    graph = parse(NETWORK)
    x = torch.randn(batch, 3, 8, 8)
    for found, expected in zip(run_graph(graph, x), by_hand(graph, x), strict=True):
        assert torch.equal(found, expected)


def test_float64_computes_in_double_throughout() -> None:
    graph = parse(NETWORK)
    x = torch.randn(2, 3, 8, 8)
    found = run_graph(graph, x, float64=True)
    expected = by_hand(graph, x.double())
    assert found[0].dtype == torch.float64 and found[2].dtype == torch.int64
    assert (found[0] - expected[0]).abs().max() < 1e-14
    assert (found[0] - run_graph(graph, x)[0]).abs().max() > 1e-12


@pytest.mark.parametrize(
    ("body", "dtype"),
    [
        ("%y = _to_copy(%x) {dtype=f16}", torch.float64),
        ("%y = _to_copy(%x) {dtype=i32}", torch.int32),
        ("%y = full() {size=(2,), fill_value=0.1, dtype=f32}", torch.float64),
        ("%y = full() {size=(2,), fill_value=0.1}", torch.float64),
        ("%y = arange() {end=3, dtype=f32}", torch.float64),
        ("%y = arange() {end=3}", torch.int64),
        ("%i = _to_copy(%x) {dtype=i64}\n%y = div.Tensor(%i, %i)", torch.float64),
        ("%y = gt.Scalar(%x) {other=0}", torch.bool),
    ],
)
def test_float64_widens_what_the_graph_makes(body: str, dtype: torch.dtype) -> None:
    graph = parse(f"input %x: f32[2]\n{body}\nreturn %y")
    (found,) = run_graph(graph, torch.tensor([0.1, 2.5]), float64=True)
    assert found.dtype == dtype
    if dtype == torch.float64 and "fill_value" in body:
        assert found[0].item() == 0.1


def test_updates_follow_the_outputs() -> None:
    graph = parse("""
    input %x: f32[2]
    buffer %count: i64[]
    %next = add.Scalar(%count) {other=1}
    %y = relu(%x)
    return %y
    update "count" = %next""")
    count = graph.constants["count"].constant.tensor.clone()  # type: ignore[union-attr]
    y, new = run_graph(graph, torch.tensor([-1.0, 1.0]))
    assert y.tolist() == [0, 1] and new == count + 1
    assert torch.equal(graph.constants["count"].constant.tensor, count)  # type: ignore[union-attr]


def test_sizes_that_depend_on_data_are_bound_when_they_are_made() -> None:
    graph = parse("""
    input %x: f32[4]
    %i: i64[u0, 1] = nonzero(%x)
    %z = zeros() {size=(u0 + 1,)}
    %m = gt.Scalar(%x) {other=0}
    %p: f32[u1] = index.Tensor(%x, %m)
    %r = expand(%p) {size=(u0, u1)}
    return %z, %r""")
    for values in ([1.0, 0, -2, 3], [0.0, 0, 0, 0]):
        x = torch.tensor(values)
        z, r = run_graph(graph, x)
        nonzero, positive = int((x != 0).sum()), x[x > 0]
        assert z.shape == (nonzero + 1,)
        assert torch.equal(r, positive.expand(nonzero, len(positive)))


def test_loop_runs_until_its_condition_fails() -> None:
    graph = parse("""
    input %i: i64[]
    input %x: f32[2]
    %n, %y = higher_order.while_loop(%i, %x) [
      graph condition {
        input %i: i64[]
        input %x: f32[2]
        %c = lt.Scalar(%i) {other=3}
        return %c
      }
      graph body {
        input %i: i64[]
        input %x: f32[2]
        %j = add.Scalar(%i) {other=1}
        %d = mul.Scalar(%x) {other=2}
        return %j, %d
      }
    ]
    return %n, %y""")
    n, y = run_graph(graph, torch.tensor(1), torch.tensor([1.0, -3.0]))
    assert n == 3 and y.tolist() == [4, -12]
    n, y = run_graph(graph, torch.tensor(7), torch.tensor([1.0, -3.0]))
    assert n == 7 and y.tolist() == [1, -3]


@pytest.mark.parametrize(("flag", "expected"), [(True, [2.0]), (False, [1.0, 3.0])])
def test_branches_of_other_sizes(flag: bool, expected: list[float]) -> None:
    graph = parse("""
    input %p: bool[]
    input %x: f32[3]
    %y: f32[u0] = higher_order.cond(%p, %x) [
      graph one {
        input %x: f32[3]
        %a = slice.Tensor(%x) {start=1, end=2}
        return %a
      }
      graph two {
        input %x: f32[3]
        %a = slice.Tensor(%x) {step=2}
        return %a
      }
    ]
    %z = ones() {size=(u0,)}
    return %y, %z""")
    verify(graph)
    y, z = run_graph(graph, torch.tensor(flag), torch.tensor([1.0, 2.0, 3.0]))
    assert y.tolist() == expected and z.shape == (len(expected),)


def test_observer_sees_every_node() -> None:
    seen: list[str] = []

    def observe(node: Node, results: Any) -> None:
        seen.append(node.op.name)

    graph = parse("input %x: f32[2]\n%a = relu(%x)\n%b, %c = max.dim(%a) {dim=0}\nreturn %c")
    Interpreter(graph, observer=observe).run(torch.ones(2))
    assert seen == ["aten.relu", "aten.max.dim"]


def test_intermediate_results_are_freed() -> None:
    graph = parse("input %x: f32[2]\n%a = relu(%x)\n%b = neg(%a)\n%c = relu(%b)\nreturn %c")
    alive: list[Any] = []

    def observe(node: Node, results: Any) -> None:
        import weakref

        alive.append(weakref.ref(results[0]))
        if node.op.name == "aten.relu" and len(alive) == 3:
            assert alive[0]() is None

    Interpreter(graph, observer=observe).run(torch.ones(2))


def test_gradients_are_off() -> None:
    graph = parse("input %x: f32[2]\n%a = relu(%x)\nreturn %a")
    (found,) = run_graph(graph, torch.ones(2, requires_grad=True))
    assert not found.requires_grad


INPUTS = "input %x: f32[2*n + 1, n]\ninput %y: f32[m, 4]\n%a = relu(%x)\nreturn %a"


def test_symbols_are_solved_for() -> None:
    graph = parse(INPUTS)
    given = [torch.zeros(7, 3), torch.zeros(5, 4)]
    assert bind_sizes(graph.inputs, given) == {"n": 3, "m": 5}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((7, 4), (5, 4)), "input 'x' has size 4, which does not fit n with n=3"),
        (((8, 3), (5, 4)), r"input 'x' has size 8, which does not fit 2\*n \+ 1 with n=3"),
        (((7, 3), (5, 6)), "input 'y' has size 6 where the graph was captured with 4"),
        (((7, 3),), "the graph takes 2 inputs, got 1"),
        (((7, 3, 1), (5, 4)), r"input 'x' has shape \(7, 3, 1\), expected f32\[2\*n \+ 1, n\]"),
    ],
)
def test_sizes_that_do_not_fit(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_graph(parse(INPUTS), *[torch.zeros(shape) for shape in shapes])


def test_failures_name_the_node_and_its_origin() -> None:
    graph = parse('input %x: f32[4]\ninput %i: i64[1]\n%a = index_select(%x, %i) {dim=0} @ "m.py":3\nreturn %a')
    with pytest.raises(GraphOptError, match=r"aten.index_select failed: .*\(from m.py:3\)"):
        run_graph(graph, torch.zeros(4), torch.tensor([9]))


def test_results_too_large_to_be_made_contiguous_name_the_node() -> None:
    graph = parse(f"input %x: f32[1]\n%wide = expand(%x) {{size=({10**9}, {10**9})}}\nreturn %wide\n")
    assert run_graph(graph, torch.ones(1))[0].shape == (10**9, 10**9)
    with pytest.raises(GraphOptError, match="expand failed"):
        Interpreter(graph, contiguous=True).run(torch.ones(1))


def test_products_of_symbols_are_checked_once_they_are_known() -> None:
    graph = parse("input %x: f32[n*m]\ninput %y: f32[n, m]\n%a = relu(%x)\nreturn %a")
    run_graph(graph, torch.zeros(6), torch.zeros(2, 3))
    with pytest.raises(InputError, match=r"input 'x' has size 7, where m\*n is 6"):
        run_graph(graph, torch.zeros(7), torch.zeros(2, 3))
