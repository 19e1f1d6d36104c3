"""activation-aware-scaling: the function kept, the loss of the paper lowered, and weights of 4 bits that gain by it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ir import Graph
from graphopt.passes.activation_aware_scaling import NOTHING, ActivationAwareScaling
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passmanager import PassContext, PassManager
from graphopt.rewrite import Contract
from graphopt.testing import assert_pass_holds
from graphopt.testing.generate import random_graph
from graphopt.testing.inputs import sample_inputs
from tests.passes.figures import decibels, decibels_of_minilm

GATED = """
input %x: f32[N, 6, 64]
parameter %g: f32[64]
parameter %gate: f32[96, 64]
parameter %up: f32[96, 64]
parameter %down: f32[64, 96]
%n = rms_norm(%x, %g) {normalized_shape=(64,)}
%a = linear(%n, %gate)
%s = silu(%a)
%u = linear(%n, %up)
%p = mul.Tensor(%s, %u)
%d = linear(%p, %down)
%o = add.Tensor(%d, %x)
return %o"""


def tensor(graph: Graph, name: str) -> torch.Tensor:
    constant = graph.constants[name].constant
    assert constant is not None
    return constant.tensor


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gated() -> Graph:
    """Some channels behind the norm are far larger than the others."""
    given = {name: points(*shape, seed=i) for i, (name, shape) in enumerate(
        (("gate", (96, 64)), ("up", (96, 64)), ("down", (64, 96))))}  # fmt: skip
    given = {name: weight / 8 for name, weight in given.items()}
    return graphopt.parse(GATED, {**given, "g": torch.where(torch.arange(64) % 16 == 0, 12.0, 0.6)})


@pytest.mark.parametrize("dtype, block_size", [("uint4", 32), ("int3", 32), ("uint4", 0)])
def test_rounded_weights_gain(dtype: str, block_size: int) -> None:
    """As AWQ does it: the norm in front of gate and up, and up in front of down, take the scales."""
    graph, x, held = gated(), points(64, 6, 64), points(64, 6, 64, seed=9)
    options = {"dtype": dtype, "block_size": block_size}
    after = ActivationAwareScaling(**options)(graph, PassContext(calibration=x.split(16)))  # type: ignore[arg-type]
    assert [node.op.name for node in after] == [node.op.name for node in graph]
    assert not torch.equal(tensor(after, "g"), tensor(graph, "g"))
    (wanted,) = run_graph(graph, held)
    torch.testing.assert_close(run_graph(after, held)[0], wanted, rtol=1e-4, atol=1e-3)
    rounding = QuantizeWeights(**options)  # type: ignore[arg-type]
    plain, scaled = (run_graph(rounding(g), held)[0] for g in (graph, after))
    assert decibels(wanted - held, scaled - held) > decibels(wanted - held, plain - held) + 0.3


def test_the_scale_is_a_power_of_the_mean_magnitude() -> None:
    graph, x = gated(), points(64, 6, 64)
    after = ActivationAwareScaling()(graph, PassContext(calibration=[x]))
    read = run_graph(_returning(graph, "gate"), x)[0].abs().mean((0, 1))
    s = tensor(graph, "g") / tensor(after, "g")
    logarithms = torch.stack([read.log(), torch.ones(64)], 1)
    fitted = torch.linalg.lstsq(logarithms, s.log()[:, None]).solution
    assert 0 < float(fitted[0]) <= 1
    torch.testing.assert_close(logarithms @ fitted, s.log()[:, None], rtol=0, atol=1e-4)
    torch.testing.assert_close(s.max() * s.min(), torch.tensor(1.0), rtol=1e-4, atol=0)


def _returning(graph: Graph, weight: str) -> Graph:
    """The graph up to what the layer of a weight reads."""
    graph = graph.clone()
    graph.set_outputs([graph.constants[weight].users[0].operands[0]])  # type: ignore[list-item]
    return graph


def test_clipping_is_lossy_and_gains_more() -> None:
    graph, x, held = gated(), points(64, 6, 64), points(64, 6, 64, seed=9)
    context = PassContext(calibration=[x])
    assert ActivationAwareScaling(clip=True).contract is Contract.LOSSY
    assert ActivationAwareScaling().contract is Contract.REASSOCIATING
    rounding, found = QuantizeWeights(dtype="uint3", search=False), []
    (wanted,) = run_graph(graph, held)
    for clip in (False, True):
        after = ActivationAwareScaling(dtype="uint3", search=False, clip=clip)(graph, context)
        found.append(decibels(wanted - held, run_graph(rounding(after), held)[0] - held))
    assert found[1] > found[0] + 0.3


def test_what_cannot_be_folded_is_divided_on_request() -> None:
    text = GATED.replace("rms_norm(%x, %g) {normalized_shape=(64,)}", "gelu(%x)").replace(
        "mul.Tensor(%s, %u)", "gelu(%u)"
    )
    graph, x = graphopt.parse(text), points(64, 6, 64) * torch.logspace(-1, 1, 64)
    result = ActivationAwareScaling().run(graph.clone(), PassContext(calibration=[x]))
    assert not result.changed and result.notes[0] == NOTHING
    assert any("gelu does not pass scales on" in note for note in result.notes)
    after = ActivationAwareScaling(insert=True)(graph, PassContext(calibration=[x]))
    assert 1 <= [node.op.base for node in after].count("aten.div") <= 2
    torch.testing.assert_close(run_graph(after, x)[0], run_graph(graph, x)[0], rtol=1e-4, atol=1e-4)


def test_small_weights_are_not_looked_at() -> None:
    result = ActivationAwareScaling(smallest=1 << 20).run(gated(), PassContext(calibration=[points(4, 6, 64)]))
    assert result.notes[0] == NOTHING


def test_bad_input() -> None:
    with pytest.raises(InputError, match="activation-aware-scaling needs data"):
        ActivationAwareScaling()(gated())
    with pytest.raises(InputError, match=r"%n.* holds a NaN"):
        ActivationAwareScaling()(gated(), PassContext(calibration=[torch.full((2, 6, 64), torch.nan)]))
    with pytest.raises(GraphOptError, match="float8_e5m2"):
        ActivationAwareScaling(dtype="float8_e5m2")
    with pytest.raises(UnknownNameError, match="int9"):
        ActivationAwareScaling(dtype="int9")
    with pytest.raises(GraphOptError, match="block_size"):
        ActivationAwareScaling(block_size=-1)
    with pytest.raises(GraphOptError, match="right order is: activation-aware-scaling,quantize-weights"):
        PassManager("quantize-weights,activation-aware-scaling", on_failure="raise").run(gated())


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.booleans())
def test_random_graphs(seed: int, insert: bool) -> None:
    operators = ["linear", "matmul", "layer_norm", "mul.Tensor", "add.Tensor", "relu", "reshape", "transpose.int"]
    graph = random_graph(seed, operators=operators)
    pass_ = ActivationAwareScaling(smallest=0, insert=insert, steps=3, block_size=4)
    assert_pass_holds(pass_, graph, context=PassContext(samples=[sample_inputs(graph)]))


def test_minilm() -> None:
    """Weights of 4 bits in blocks of 32, rounded to the nearest: scaled before, the embeddings are nearer."""
    before = "activation-aware-scaling{insert=true, steps=4, search=false},"
    found = decibels_of_minilm(f"default,{b}quantize-weights{{search=false, embeddings=false}}" for b in ("", before))
    assert found[1] > found[0] + 0.5, found
