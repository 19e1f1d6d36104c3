"""An operator that nothing is known of: every pass treats it as a barrier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from graphopt.analysis import Interpreter
from graphopt.ir import Graph, Op, Param, ParamKind
from graphopt.ops import registry
from graphopt.passmanager import Pass, PassContext
from graphopt.rewrite import Contract
from graphopt.testing import GraphBuilder, register_sampler, sample_inputs, unregister_sampler
from graphopt.testing.domain import Domain
from graphopt.testing.suite import optimize, registered_passes
from tests.testing.modes import over_graphs

NAME = "mystery.log"
calls: list[float] = []


def log(x: torch.Tensor) -> torch.Tensor:
    """Has an effect that its result does not show."""
    calls.append(float(x.double().sum()))
    return x.clone()


@pytest.fixture(scope="module", autouse=True)
def mystery() -> Iterator[None]:
    op = Op(NAME, (Param("x", ParamKind.OPERAND),), infer=lambda call: call.operand_types, evaluate=log)  # type: ignore[arg-type, return-value]
    if registry.find(NAME) is None:
        registry.register(op)

    @register_sampler(NAME, weight=60)
    def sample(b: GraphBuilder) -> None:
        x = b.tensor()
        known = b.domain(x)
        b.emit(NAME, x, domain=Domain(known.low, known.high, known.exact))

    yield
    unregister_sampler(NAME)


def trace_of(graph: Graph) -> list[float]:
    calls.clear()
    Interpreter(graph, float64=True, contiguous=True).run(*sample_inputs(graph))
    return list(calls)


def assert_same_effects(before: Graph, after: Graph) -> None:
    old, new = trace_of(before), trace_of(after)
    assert len(old) == len(new), f"{before}\n{after}"
    assert torch.allclose(torch.tensor(old), torch.tensor(new), rtol=1e-5, atol=1e-5), (
        f"{old}\n{new}\n{before}\n{after}"
    )


@pytest.mark.unchecked_passes  # validation would add calls of its own
@pytest.mark.parametrize("pass_", registered_passes(), ids=lambda p: p.name)
def test_passes_keep_effects_in_number_and_order(pass_: Pass) -> None:
    @over_graphs(8)
    def holds(graph: Graph) -> None:
        copy = graph.clone()
        pass_.run(copy, PassContext(samples=[sample_inputs(graph)]))  # some passes are made from data
        assert len(trace_of(copy)) == len(trace_of(graph))
        if pass_.contract is not Contract.LOSSY:
            assert_same_effects(graph, copy)

    holds()


@pytest.mark.unchecked_passes
@pytest.mark.parametrize("target", ["cpu", "fx"])
def test_default_pipelines_keep_effects(target: str) -> None:
    @over_graphs(10)
    def holds(graph: Graph) -> None:
        assert_same_effects(graph, optimize(graph, target))

    holds()


def test_two_equal_calls_are_not_shared_and_unused_ones_stay() -> None:
    from graphopt.ops import parse

    text: Any = f"""
        input %x: f32[2]
        %a = {NAME}(%x)
        %b = {NAME}(%x)
        %unused = {NAME}(%x)
        %c = add.Tensor(%a, %b)
        return %c"""
    optimized = optimize(parse(text), "cpu")
    assert sum(node.op.name == NAME for node in optimized) == 3
