"""Pairs of layers: merged where one is cheaper, and cut to what counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.analysis import CostModel, Interpreter
from graphopt.errors import GraphOptError, InputError
from graphopt.ir import Graph
from graphopt.passes.merge_linear import MergeLinear
from graphopt.passes.truncate_factors import TruncateFactors, reduced
from graphopt.passmanager import PassContext
from graphopt.testing import check_pass

OPERATORS = ("linear", "conv1d", "conv2d", "relu", "add.Tensor", "call-again")


def computed(graph: Graph, *x: torch.Tensor) -> torch.Tensor:
    (out,) = Interpreter(graph).run(*x)
    return out


def test_merge_text(check) -> None:
    check(
        MergeLinear(),
        """
        input %x: f32[N, 2]
        parameter %w1: f32[3, 2] requires_grad = ((1.0, 2.0), (0.0, 1.0), (3.0, 0.0))
        parameter %b1: f32[3] requires_grad = (1.0, 0.0, 2.0)
        parameter %w2: f32[1, 3] requires_grad = ((2.0, 1.0, -1.0),)
        parameter %b2: f32[1] requires_grad = (5.0,)
        %y = aten.linear(%x, %w1, %b1)
        %z = aten.linear(%y, %w2, %b2)
        return %z""",
        """
        input %x: f32[N, 2]
        parameter %w2: f32[1, 2] requires_grad = ((-1.0, 5.0),)
        parameter %b2: f32[1] requires_grad = (5.0,)
        %z = aten.linear(%x, %w2, %b2)
        return %z""",
    )


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [nn.Linear(12, 40), nn.Linear(40, 12, bias=False)],
        lambda: [nn.Linear(12, 40, bias=False), nn.Linear(40, 20), nn.Linear(20, 6)],
        lambda: [nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Conv2d(16, 4, 1)],
        lambda: [nn.Conv2d(3, 32, 1), nn.Conv2d(32, 4, 3, stride=2)],
        lambda: [nn.Conv2d(3, 32, 1, bias=False), nn.Conv2d(32, 4, 3, padding=1)],
    ],
)
def test_merged_layers_compute_the_same(layers: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers()).eval()
    x = (torch.randn(2, 3, 9, 9),) if isinstance(model[0], nn.Conv2d) else (torch.randn(5, 12),)
    graph = graphopt.trace(model, x)
    before = CostModel({}).graph(graph)
    assert MergeLinear().run(graph, PassContext(samples=[x])).changed
    assert len(list(graph)) == 1
    found = CostModel({}).graph(graph)
    assert found.macs < before.macs and found.parameters < before.parameters
    torch.testing.assert_close(computed(graph, *x), model(*x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 12)), "together they would have 144 weights"),
        (nn.Sequential(nn.Conv2d(12, 64, 1), nn.Conv2d(64, 4, 3, padding=1)), ""),
        (nn.Sequential(nn.Conv2d(12, 64, 3), nn.Conv2d(64, 4, 3)), ""),
        (nn.Sequential(nn.Conv2d(12, 64, 1, groups=2), nn.Conv2d(64, 4, 1)), ""),
        (nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 4)), ""),
    ],
)
def test_what_stays_apart(model: nn.Sequential, why: str) -> None:
    x = (torch.randn(2, 12, 9, 9),) if isinstance(model[0], nn.Conv2d) else (torch.randn(5, 12),)
    result = MergeLinear().run(graphopt.trace(model.eval(), x), PassContext())
    assert not result.changed
    assert any(why in note for note in result.notes) if why else not result.notes


def test_generated_graphs() -> None:
    check_pass(MergeLinear(), examples=20, idempotent=True, operators=OPERATORS, max_nodes=10)
    check_pass(TruncateFactors(rank=1), examples=15, operators=OPERATORS, max_nodes=10)


def redundant(kind: str) -> tuple[nn.Sequential, tuple[torch.Tensor, ...], int]:
    """Two layers whose product has a rank below the channels between them."""
    torch.manual_seed(0)
    pairs: dict[str, Any] = {
        "linear": lambda: (nn.Linear(12, 10), nn.Linear(10, 14)),
        "inner": lambda: (nn.Conv2d(3, 10, 3, padding=1, stride=2), nn.Conv2d(10, 14, 1)),
        "outer": lambda: (nn.Conv2d(14, 10, 1, bias=False), nn.Conv2d(10, 6, 3, padding=1)),
    }
    first, second = pairs[kind]()
    turned = torch.randn(10, 4) @ torch.randn(4, 10) / 4
    with torch.no_grad():
        second.weight.copy_(torch.einsum("om...,mn->on...", second.weight, turned))
    sizes = {"linear": (5, 12), "inner": (2, 3, 8, 8), "outer": (2, 14, 8, 8)}[kind]
    return nn.Sequential(first, second).eval(), (torch.randn(*sizes),), 4


@pytest.mark.parametrize("kind", ["linear", "inner", "outer"])
@pytest.mark.parametrize("data", [False, True])
def test_superfluous_channels_go(kind: str, data: bool) -> None:
    model, x, rank = redundant(kind)
    graph = graphopt.trace(model, x)
    result = TruncateFactors(data_aware=data, error=1e-4).run(graph, PassContext(samples=[x]))
    assert f"rank 10 → {rank}" in result.notes[0]
    torch.testing.assert_close(computed(graph, *x), model(*x), rtol=1e-4, atol=1e-4)


def test_reduced_is_the_svd_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    first, last = (torch.randn(n, generator=generator, dtype=torch.float64) for n in ((6, 9), (7, 6)))
    squares, turn, narrowed = reduced(first, last)
    left, values, right = torch.linalg.svd(last @ first)
    torch.testing.assert_close(squares, values[:6].square())
    for rank in range(1, 7):
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        torch.testing.assert_close(narrowed[:, :rank] @ turn[:rank] @ first, best)
    torch.testing.assert_close((turn @ first).norm(dim=1), narrowed.norm(dim=0))


def test_decomposed_and_trained_and_cut_again() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(32, 32), torch.randn(64, 32)
    small = graphopt.compile(model, (x,), target="fx", passes="decompose{rank=12, multiple=1}")
    graphopt.finetune(small, [(x, model(x).detach())], nn.functional.mse_loss, epochs=2, progress=False)
    again = graphopt.compile(small, (x,), target="fx", passes="truncate-factors{rank=6}")
    assert sorted(tuple(p.shape) for p in again.parameters()) == [(6, 32), (32,), (32, 6)]
    again(x).sum().backward()
    error = float((again(x) - small(x)).detach().norm() / small(x).detach().norm())
    assert 0 < error < 0.8


def test_bad_options() -> None:
    with pytest.raises(GraphOptError, match="error and rank each say how far to go"):
        TruncateFactors(error=0.1, rank=2)
    with pytest.raises(GraphOptError, match="rank must be at least 1"):
        TruncateFactors(rank=0)
    model, x, _ = redundant("linear")
    with pytest.raises(InputError, match="needs data"):
        TruncateFactors(data_aware=True).run(graphopt.trace(model, x), PassContext())
