"""smooth-quant: the formula of the paper, folded into norms and layers, and what outliers cost without it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ir import Graph
from graphopt.passes.smooth_quant import NOTHING, SmoothQuant
from graphopt.passmanager import PassContext, PassManager
from graphopt.testing import assert_pass_holds
from graphopt.testing.generate import random_graph
from graphopt.testing.inputs import sample_inputs
from tests.passes.figures import decibels_in_onnxruntime, decibels_of_minilm

NORMED = """
input %x: f32[N, 6, 8]
parameter %g: f32[8]
parameter %h: f32[8]
parameter %q: f32[8, 8]
parameter %k: f32[4, 8]
parameter %kb: f32[4]
%n = layer_norm(%x, %g, %h) {normalized_shape=(8,)}
%a = linear(%n, %q)
%b = linear(%n, %k, %kb)
return %a, %b"""
SHARED = NORMED.replace("return %a, %b", "%s = add.Tensor(%n, %a)\nreturn %s, %b")


def tensor(graph: Graph, name: str) -> torch.Tensor:
    constant = graph.constants[name].constant
    assert constant is not None
    return constant.tensor


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_the_formula(alpha: float) -> None:
    """One norm, two layers, one s: max|X|^α / max|W|^(1−α)."""
    graph, x = graphopt.parse(NORMED), points(20, 6, 8)
    read = torch.nn.functional.layer_norm(x, (8,), tensor(graph, "g"), tensor(graph, "h")).abs().amax((0, 1))
    weight = torch.maximum(tensor(graph, "q").abs().amax(0), tensor(graph, "k").abs().amax(0))
    s = read**alpha / weight ** (1 - alpha)
    after = SmoothQuant(alpha=alpha)(graph, PassContext(calibration=x.split(7)))
    for name, wanted in (("g", 1 / s), ("h", 1 / s), ("q", s), ("k", s), ("kb", torch.ones(4))):
        torch.testing.assert_close(tensor(after, name), tensor(graph, name) * wanted)
    for new, old in zip(run_graph(after, x), run_graph(graph, x)):
        torch.testing.assert_close(new, old)


def test_text() -> None:
    text = "input %x: f32[N, 2]\nparameter %g: f32[2] = {}\nparameter %q: f32[1, 2] = {}\n%n = rms_norm(%x, %g) "
    text += "{{normalized_shape=(2,)}}\n%a = linear(%n, %q)\nreturn %a"
    graph = graphopt.parse(text.format("(4.0, 1.0)", "((1.0, 1.0),)"))
    context = PassContext(calibration=[torch.eye(2)])
    after = SmoothQuant(alpha=1.0)(graph, context)
    torch.testing.assert_close(tensor(after, "q"), torch.tensor([[4.0, 1.0]]) * 2**0.5, rtol=1e-6, atol=1e-6)
    assert [node.op.name for node in after] == [node.op.name for node in graph]


def test_a_norm_with_other_readers_stays_unless_a_division_is_inserted() -> None:
    graph, x = graphopt.parse(SHARED), points(20, 6, 8)
    context = PassContext(calibration=[x])
    result = SmoothQuant(alpha=0.5).run(graph.clone(), context)
    assert not result.changed
    assert result.notes[0] == NOTHING
    assert any("q, k keep the scales of what they read: the model returns it" in note for note in result.notes)
    after = SmoothQuant(alpha=0.5, insert=True)(graph, context)
    assert [node.op.base for node in after].count("aten.div") == 1
    for new, old in zip(run_graph(after, x), run_graph(graph, x)):
        torch.testing.assert_close(new, old)


def test_the_search_never_does_worse_by_its_own_measure() -> None:
    """Where activations are even and weights are not, nothing is moved."""
    given = {"g": torch.ones(8), "h": torch.zeros(8), "q": points(8, 8), "k": points(4, 8)}
    x = points(64, 6, 8)
    result = SmoothQuant().run(graphopt.parse(NORMED, given), PassContext(calibration=[x]))
    gain = next(note for note in result.notes if note.startswith("q:"))
    assert "left" in gain or float(gain.split()[-2]) < 3
    given["g"] = torch.tensor([100.0, *[1.0] * 7])
    result = SmoothQuant().run(graphopt.parse(NORMED, given), PassContext(calibration=[x]))
    gain = next(note for note in result.notes if note.startswith("q:"))
    assert float(gain.split()[-2]) > 6


def test_dead_channels_stay() -> None:
    given = {"g": torch.tensor([0.0, *[1.0] * 7]), "h": torch.zeros(8), "q": points(8, 8)}
    given["q"][:, 1] = 0
    graph = graphopt.parse(NORMED, given)
    tensor(graph, "k")[:, 1] = 0
    after = SmoothQuant(alpha=0.5)(graph, PassContext(calibration=[points(20, 6, 8)]))
    for name in ("q", "k"):
        assert torch.equal(tensor(after, name)[:, :2], tensor(graph, name)[:, :2])


def test_convolutions_on_request() -> None:
    text = """
    input %x: f32[N, 2, 6, 6]
    parameter %a: f32[4, 2, 1, 1]
    parameter %z: f32[4, 2, 3, 3]
    %y = conv2d(%x, %a)
    %r = relu(%y)
    %o = conv2d(%r, %z) {groups=2}
    return %o"""
    graph, x = graphopt.parse(text), points(16, 2, 6, 6)
    tensor(graph, "a")[0] *= 50
    context = PassContext(calibration=[x])
    assert not SmoothQuant().run(graph.clone(), context).changed
    after = SmoothQuant(convolutions=True)(graph, context)
    assert float(tensor(after, "a")[0].abs().max()) < 0.5 * float(tensor(graph, "a")[0].abs().max())
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0])


def test_any_split_of_the_data_gives_the_same_scales() -> None:
    graph, x = graphopt.parse(NORMED), points(20, 6, 8)
    found = [SmoothQuant(alpha=0.5)(graph, PassContext(calibration=x.split(size))) for size in (1, 7, 20)]
    for other in found[1:]:
        torch.testing.assert_close(tensor(other, "q"), tensor(found[0], "q"), rtol=1e-6, atol=0)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="smooth-quant needs data"):
        SmoothQuant()(graphopt.parse(NORMED))
    with pytest.raises(InputError, match=r"%n.* holds a NaN"):
        SmoothQuant()(graphopt.parse(NORMED), PassContext(calibration=[torch.full((2, 6, 8), torch.nan)]))
    with pytest.raises(GraphOptError, match=r"alpha is 1\.5"):
        SmoothQuant(alpha=1.5)
    with pytest.raises(UnknownNameError, match="row"):
        SmoothQuant(granularity="row")
    with pytest.raises(GraphOptError, match="float8_e5m2"):
        SmoothQuant(activations="float8_e5m2")
    context = PassContext(target="onnxruntime", calibration=[points(20, 6, 8)])
    with pytest.raises(GraphOptError, match="right order is: smooth-quant,quantize"):
        PassManager("quantize,smooth-quant", on_failure="raise").run(graphopt.parse(NORMED), context)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 1.0, None]), st.booleans())
def test_random_graphs(seed: int, alpha: float | None, insert: bool) -> None:
    operators = ["linear", "layer_norm", "rms_norm", "mul.Tensor", "add.Tensor", "relu", "reshape", "transpose.int"]
    graph = random_graph(seed, operators=operators)
    context = PassContext(samples=[sample_inputs(graph)])
    assert_pass_holds(SmoothQuant(alpha=alpha, insert=insert), graph, context=context)


class Encoder(nn.Module):
    """A block with norms before its layers, whose norms have a few large channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        with torch.no_grad():
            for norm in (self.first, self.second):
                norm.weight[:2] *= 60

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.first(x)
        q, k, v = (layer(n).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q * 0.02, k, v).transpose(1, 2).flatten(2)
        x = x + self.o(mixed)
        return x + self.down(torch.relu(self.up(self.second(x))))


def test_outliers_of_a_block_with_norms_first() -> None:
    """Every layer is reached by folding alone, and the graph gets no node."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Encoder().eval()
    x = points(48, 10, 32)
    pipelines = [f"default,{before}quantize,fold-constants,dead-code" for before in ("", "smooth-quant,")]
    sqnr = decibels_in_onnxruntime(model, x, pipelines)
    assert sqnr[1] > sqnr[0] + 3, sqnr


def test_minilm() -> None:
    """Norms behind sums take no scale, so divisions are inserted; static int8 gains some decibels by them."""
    before = "smooth-quant{insert=true, alpha=0.8},"
    sqnr = decibels_of_minilm(f"default,{b}quantize{{trainable=false, correct_bias=false}}" for b in ("", before))
    assert sqnr[1] > sqnr[0] + 3, sqnr
