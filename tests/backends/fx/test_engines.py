"""The engines and their registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from graphopt.analysis import run_graph
from graphopt.backends.fx.engines import EagerEngine, InductorEngine
from graphopt.errors import GraphOptError, TargetError, UnknownNameError
from graphopt.ir import Op, Param, ParamKind
from graphopt.ops import parse
from graphopt.ops import registry as operators
from graphopt.targets import Engine, engine_names, get_engine, register_engine, registry

NET = """
    input %x: f32[N, 3, 8, 8]
    parameter %w: f32[4, 3, 3, 3] requires_grad
    parameter %g: f32[4]
    parameter %b: f32[4]
    buffer %m: f32[4]
    buffer %v: f32[4]
    %1 = conv2d(%x, %w) {padding=(1, 1)}
    %2 = batch_norm(%1, %g, %b, %m, %v) {training="follow", momentum=0.1, eps=1e-05, cudnn_enabled=true}
    %3 = relu(%2)
    %4 = reshape(%3) {shape=(N, 256)}
    return %4, %x"""

STATEFUL = """
    input %x: f32[N, 2]
    buffer %seen: f32[2] = (0.0, 0.0)
    %s = sum.dim_IntList(%x) {dim=(0,)}
    %t = add.Tensor(%seen, %s)
    %y = mul.Tensor(%x, %t)
    return %y
    update "seen" = %t"""


@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_runs_at_several_sizes(name: str) -> None:
    graph = parse(NET)
    executable = get_engine(name).load(graph)
    for batch in (2, 3, 5, 1):
        x = torch.randn(batch, 3, 8, 8)
        for given in (x, x.to(memory_format=torch.channels_last)):
            got = executable.run([given])
            expected = run_graph(graph, given)
            assert isinstance(got, list) and not got[0].requires_grad
            assert torch.allclose(got[0], expected[0], atol=1e-5) and torch.equal(got[1], x)


@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_state_lives_in_the_executable(name: str) -> None:
    graph = parse(STATEFUL)
    executable, other = get_engine(name).load(graph), get_engine(name).load(graph)
    given = [torch.ones(size, 2) for size in (2, 2, 3, 2, 5, 1)]
    assert [executable.run([x])[0][0, 0].item() for x in given] == [2.0, 4.0, 7.0, 9.0, 14.0, 15.0]
    assert other.run([torch.ones(2, 2)])[0][0, 0].item() == 2.0
    assert graph.constants["seen"].constant.tensor.tolist() == [0.0, 0.0]  # type: ignore[union-attr]


CONTROL = """
input %x: f32[N, 4]
input %n: int(K)
parameter %w: f32[4, 4] requires_grad
%s = sum(%x)
%p = gt.Scalar(%s) {other=0}
%y = higher_order.cond(%p, %x, %w) [
  graph yes {
    input %a: f32[N, 4]
    input %b: f32[4, 4]
    constant %k: f32[4] = (1., 2., 3., 4.)
    %m = mm(%a, %b)
    %r = add.Tensor(%m, %k)
    return %r
  }
  graph no {
    input %a: f32[N, 4]
    input %b: f32[4, 4]
    %r = neg(%a)
    return %r
  }
]
%z = full() {size=(K + N,), fill_value=0.5}
return %y, %z"""


@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_control_flow_and_numbers(name: str) -> None:
    graph = parse(CONTROL)
    executable = get_engine(name).load(graph)
    for sign, batch, number in ((1, 2, 3), (-1, 2, 3), (1, 5, 3), (-1, 5, 4)):
        inputs = [sign * torch.rand(batch, 4), number]
        for got, expected in zip(executable.run(inputs), run_graph(graph, *inputs), strict=True):
            assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_data_dependent_sizes(name: str) -> None:
    graph = parse("""
        input %x: f32[N]
        %i: i64[K, 1] = nonzero(%x)
        %y = mul.Scalar(%i) {other=2}
        return %y""")
    executable = get_engine(name).load(graph)
    for x in (torch.tensor([0.0, 1.0, 2.0]), torch.zeros(2), torch.ones(4)):
        assert torch.equal(executable.run([x])[0], run_graph(graph, x)[0])


@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_inputs_updated_in_place_and_inputs_returned(name: str) -> None:
    graph = parse("""
        input %x: f32[3]
        input %cache: f32[3]
        constant %c: f32[3] = (1.0, 2.0, 3.0)
        %y = add.Tensor(%cache, %x)
        %v = reshape(%x) {shape=(3, 1)}
        return %x, %v, %c
        update "cache" = %y""")
    executable = get_engine(name).load(graph)
    x, cache = torch.ones(3), torch.zeros(3)
    for step in (1.0, 2.0):
        same, view, constant = executable.run([x, cache])
        assert torch.equal(same, x) and torch.equal(view, x[:, None]) and constant.tolist() == [1.0, 2.0, 3.0]
        assert cache.tolist() == [step] * 3


@pytest.mark.parametrize("name", ["eager", "inductor"])
def test_equal_draws_stay_apart_and_follow_the_seed(name: str) -> None:
    graph = parse("""
        input %x: f32[4000]
        %a = randn_like(%x)
        %b = randn_like(%x)
        %y = sub.Tensor(%a, %b)
        return %y""")
    executable = get_engine(name).load(graph)
    x = torch.zeros(4000)
    executable.run([x])
    torch.manual_seed(0)
    first, second = executable.run([x])[0], executable.run([x])[0]
    torch.manual_seed(0)
    assert torch.equal(first, executable.run([x])[0]) and not torch.equal(first, second)
    assert 1.8 < first.var().item() < 2.2


def test_outputs_can_be_used_in_training() -> None:
    (y, _) = get_engine("eager").load(parse(NET)).run([torch.randn(1, 3, 8, 8)])
    head = torch.nn.Linear(256, 2)
    head(y).sum().backward()
    assert head.weight.grad is not None


def test_freezing_is_set_for_the_compilation_alone() -> None:
    import torch._inductor.config as inductor

    get_engine("inductor").load(parse(NET)).run([torch.randn(2, 3, 8, 8)])
    assert inductor.freezing is False


def test_unsupported_graphs_are_told_by_reason() -> None:
    name = "engines.abstract"
    if operators.find(name) is None:
        operators.register(Op(name, (Param("x", ParamKind.OPERAND),), infer=lambda call: call.operand_types))  # type: ignore[arg-type, return-value]
    graph = parse(f"input %x: f32[2]\n%y = {name}(%x)\nreturn %y")
    assert f"{name} has no PyTorch implementation" in (EagerEngine().unsupported(graph) or "")
    assert EagerEngine().unsupported(parse("input %x: i4[2]\nreturn %x")) is None  # stored in a byte each
    assert EagerEngine().unsupported(parse(NET)) is None and InductorEngine().unsupported(parse(NET)) is None


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert InductorEngine().missing() is None
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (InductorEngine().missing() or "")
    assert EagerEngine().missing() is None


@pytest.fixture
def own_engine() -> Iterator[str]:
    register_engine("own-eager", lambda: EagerEngine(share_weights=True))
    yield "own-eager"
    del registry._registered["own-eager"]


def test_registry(own_engine: str) -> None:
    assert {"eager", "inductor", "onnxruntime", own_engine} <= set(engine_names())
    assert isinstance(get_engine(own_engine), Engine)
    with pytest.raises(GraphOptError, match="registered already"):
        register_engine(own_engine, EagerEngine)


def test_registry_errors() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown engine 'eagre'\. Did you mean 'eager'"):
        get_engine("eagre")
    with pytest.raises(TargetError, match="options"):
        get_engine("eager", colour="blue")


class Broken:
    """An entry point whose module is missing."""

    value = "no.such.module:Engine"

    def load(self) -> Any:
        raise ModuleNotFoundError("No module named 'no'")


def test_a_broken_entry_point_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entry_points", lambda: {"broken": Broken()})
    with pytest.raises(TargetError, match=r"'broken' does not load from 'no\.such\.module:Engine'"):
        get_engine("broken")
