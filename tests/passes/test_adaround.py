"""AdaRound: learned rounding beats the nearest, never ends above it, and what it draws on is bounded."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError
from graphopt.ops.quantization import find_format
from graphopt.passes.quantization.adaround import Positions, learned
from graphopt.passes.quantization.rounding import Lattice
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext
from tests.passes.figures import decibels
from tests.zoo import trained

TEXT = """
input %x: f32[N, 8, 6, 6]
parameter %w: f32[8, 8, 3, 3]
parameter %b: f32[8]
parameter %d: f32[8, 1, 3, 3]
parameter %l: f32[10, 128]
%y = conv2d(%x, %w, %b) {padding=(1, 1)}
%r = relu(%y)
%z = conv2d(%r, %d, none) {groups=8}
%f = reshape(%z) {shape=(N, 128)}
%o = linear(%f, %l)
return %o"""


def data(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 8, generator=torch.Generator().manual_seed(9))
    return torch.einsum("nchw,cd->ndhw", torch.randn(count, 8, 6, 6, generator=generator), mixing)


def test_near_the_best_of_all_roundings() -> None:
    """Brute force over one row of few columns, with an activation behind it."""
    generator = torch.Generator().manual_seed(5)
    x = (torch.randn(300, 8, generator=generator) @ torch.randn(8, 8, generator=generator))[None]
    weight = torch.randn(1, 1, 8, generator=generator)
    scale = (weight.abs().amax() / 7).expand_as(weight)
    lattice = Lattice(scale, torch.zeros_like(scale), find_format("int4"))

    def outputs(numbers: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return (given @ numbers.transpose(1, 2)).relu()

    target = outputs(weight, x)

    def error(q: torch.Tensor) -> float:
        return float((outputs(lattice.numbers(q), x) - target).square().mean())

    found = learned(weight, lattice, x, target, outputs, 400)
    down = (weight / scale).floor()
    best = min(error((down + torch.tensor(c)).clamp(-8, 7)) for c in product((0, 1), repeat=8))
    assert best <= error(found) <= 2 * best and error(found) < error(lattice.nearest(weight))


def test_no_better_is_an_error_that_falls_back() -> None:
    lattice = Lattice(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), find_format("int4"))
    x = torch.eye(3)[None]

    def outputs(numbers: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return given @ numbers.transpose(1, 2)

    exact = torch.ones(1, 2, 3)
    with pytest.raises(GraphOptError, match="exact"):
        learned(exact, lattice, x, outputs(exact, x), outputs, 5)
    weight = torch.tensor([0.3, 0.2, -1.4]).expand(1, 2, 3)  # independent inputs: the nearest are best
    with pytest.raises(GraphOptError, match="no better"):
        learned(weight, lattice, x, outputs(weight, x), outputs, 20)


def test_convolutions_depthwise_and_linear_layers() -> None:
    graph, held_out = graphopt.parse(TEXT), data(64, 1)
    (expected,) = run_graph(graph, held_out)
    found = {}
    for rounding in ("nearest", "adaround"):
        made = graph.clone()
        context = PassContext(target="onnxruntime", calibration=[data(48, 0)])
        pass_ = Quantize(dtype="int4", activations="uint8", rounding=rounding, iterations=150)
        result = pass_.run(made, context)
        found[rounding] = decibels(expected, run_graph(made, held_out)[0])
        again = graph.clone()
        pass_.run(again, context)
        assert str(again) == str(made), result.notes
    assert found["adaround"] > found["nearest"] + 0.2


@pytest.mark.parametrize("name", ["lenet", "resnet8"])
def test_on_trained_networks(name: str) -> None:
    model = getattr(trained, f"trained_{name}")()
    calibration, held_out = model.data.train_images[:32], model.data.images[:100]
    graph = graphopt.compile(model.module, (calibration[:2],), target="onnx", dynamic_shapes="batch").graph
    with torch.no_grad():
        reference = model.module(held_out)
    context = PassContext(target="onnxruntime", calibration=[calibration])
    options: dict[str, Any] = {"dtype": "int4", "activations": "uint8"}
    nearest, learnt = (
        decibels(reference, run_graph(Quantize(rounding=r, iterations=40, **options)(graph, context), held_out)[0])
        for r in ("nearest", "adaround")
    )
    assert learnt > nearest + 0.5


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 50))
def test_kept_positions_do_not_depend_on_the_split(sizes: list[int], limit: int) -> None:
    total = sum(sizes)
    x = torch.arange(total, dtype=torch.float32).reshape(1, total, 1)
    whole, parts = Positions(limit), Positions(limit)
    whole.add(x)
    for piece in x.split(sizes, 1):
        parts.add(piece)
    again = Positions(None, whole.level)
    again.add(x)
    assert torch.equal(whole.tensor(), parts.tensor()) and torch.equal(whole.tensor(), again.tensor())
    assert whole.tensor().shape[1] <= limit
