"""New values of buffers and inputs are written in place; everything returned is from before or apart."""

from __future__ import annotations

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.ops import parse
from tests.backends.fx.helpers import emit

COUNTER = """
    input %x: f32[N]
    buffer %count: f32[1] = (0.0,)
    buffer %total: f32[1] = (0.0,)
    %c = add.Scalar(%count) {other=1}
    %s = sum.dim_IntList(%x) {dim=(0,), keepdim=true}
    %t = add.Tensor(%total, %s)
    %y = div.Tensor(%t, %c)
    return %y
    update "count" = %c
    update "total" = %t"""


def test_buffers_carry_state_from_call_to_call() -> None:
    graph = parse(COUNTER)
    module = emit(graph)
    total = 0.0
    for step in range(1, 4):
        x = torch.full((step,), float(step))
        total += x.sum().item()
        assert module(x)[0].item() == pytest.approx(total / step)
    assert module.count.item() == 3 and graph.constants["count"].constant.tensor.item() == 0  # type: ignore[union-attr]


def test_an_input_is_updated_in_place() -> None:
    graph = parse("""
        input %x: f32[N]
        input %cache: f32[N]
        %y = add.Tensor(%cache, %x)
        %z = relu(%y)
        return %z
        update "cache" = %y""")
    cache, x = torch.tensor([1.0, -9.0]), torch.ones(2)
    expected = run_graph(graph, x, cache.clone())
    (z,) = emit(graph)(x, cache)
    assert torch.equal(z, expected[0]) and torch.equal(cache, expected[1])


def test_outputs_hold_the_values_from_before_the_update() -> None:
    graph = parse("""
        input %x: f32[2, 2]
        buffer %b: f32[2, 2] = ((1.0, 2.0), (3.0, 4.0))
        %row = select.int(%b) {dim=0, index=0}
        %flat = reshape(%row) {shape=(2, 1)}
        %same = dropout(%b) {p=0.5, train=false}
        return %b, %flat, %same, %x
        update "b" = %x
        update "x" = %b""")
    module = emit(graph)
    x = torch.zeros(2, 2)
    old, flat, same, given = module(x)
    assert old.tolist() == same.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert flat.tolist() == [[1.0], [2.0]] and given.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert module.b.tolist() == [[0.0, 0.0], [0.0, 0.0]] and x.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_values_of_their_own_are_not_cloned() -> None:
    assert "clone" not in emit(parse(COUNTER)).code


def test_updates_don_t_join_one_backward_to_the_next() -> None:
    graph = parse("""
        input %x: f32[2]
        parameter %w: f32[2] requires_grad
        buffer %mean: f32[2] = (0.0, 0.0)
        %y = mul.Tensor(%x, %w)
        %m = add.Tensor(%mean, %y)
        return %m
        update "mean" = %m""")
    module = emit(graph)
    for step in range(1, 4):
        module.w.grad = None
        module(torch.ones(2))[0].sum().backward()
        assert module.w.grad.tolist() == [1.0, 1.0]
        assert torch.allclose(module.mean, step * module.w.detach()) and not module.mean.requires_grad


def test_statistics_written_by_the_operator_itself_stay_in_the_module() -> None:
    graph = parse("""
        input %x: f32[N, 3]
        buffer %m: f32[3]
        buffer %v: f32[3]
        %y = batch_norm(%x, none, none, %m, %v) {training=true, momentum=0.5, eps=0.01, cudnn_enabled=true}
        return %y""")
    before = graph.constants["m"].constant.tensor.clone()  # type: ignore[union-attr]
    module = emit(graph)
    x = torch.randn(4, 3)
    module(x)
    assert torch.allclose(module.m, 0.5 * before + 0.5 * x.mean(0))
    assert torch.equal(graph.constants["m"].constant.tensor, before)  # type: ignore[union-attr]


def test_a_parameter_can_be_rescaled_in_place() -> None:
    graph = parse("""
        input %x: f32[2]
        parameter %w: f32[2] requires_grad = (2.0, 4.0)
        %half = mul.Scalar(%w) {other=0.5}
        %y = add.Tensor(%x, %half)
        return %y
        update "w" = %half""")
    module = emit(graph)
    (y,) = module(torch.zeros(2))
    assert y.tolist() == module.w.tolist() == [1.0, 2.0]
    assert module.w.is_leaf and module.w.requires_grad


def test_state_survives_export_and_compilation() -> None:
    graph = parse(COUNTER)
    x = torch.full((3,), 2.0)
    exported = torch.export.export(emit(graph), (x,)).module()
    compiled = torch.compile(emit(graph), backend="aot_eager", fullgraph=True)
    module = emit(graph)
    for _ in range(3):
        expected = module(x)[0]
        assert torch.equal(exported(x)[0], expected) and torch.equal(compiled(x)[0], expected)
    assert module.count.item() == 3


def test_an_output_is_never_stored_state_or_the_input_itself() -> None:
    """`x + 0` and `b + 0` become `x` and `b`; the caller may write to what a call returned."""
    graph = parse("""
    input %x: f32[3]
    buffer %b: f32[3]
    %v = reshape(%b) {shape=(3, 1)}
    %r = relu(%x)
    return %x, %b, %v, %r, %r""")
    module, x = emit(graph), torch.ones(3)
    expected = [t.clone() for t in module(x)]
    for output in module(x):
        output.fill_(7)
    assert torch.equal(x, torch.ones(3))
    assert all(torch.equal(a, b) for a, b in zip(module(x), expected))
    results = module(x)
    results[3].fill_(7)
    assert torch.equal(results[4], expected[4])
