"""Tuning of scales: integers stay, and noise of the outputs falls on data held out, or nothing changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, InputError
from graphopt.ir import verify
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passmanager import PassContext
from tests.passes.figures import decibels
from tests.zoo.trained import trained_lenet

NET = """
input %i: i64[N, 6]
parameter %t: f32[50, 32]
parameter %w: f32[64, 32]
parameter %b: f32[64]
parameter %v: f32[16, 64]
%e = embedding(%t, %i)
%h = linear(%e, %w, %b)
%r = relu(%h)
%o = linear(%r, %v)
return %o"""

ROUGH = QuantizeWeights(dtype="uint2", block_size=16, smallest=1)


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 50, (count, 6), generator=torch.Generator().manual_seed(seed))


def stored(graph: graphopt.Graph, ends: str) -> dict[str, torch.Tensor]:
    constants = {name: value.constant.tensor for name, value in graph.constants.items() if name.endswith(ends)}  # type: ignore[union-attr]
    assert constants
    return constants


def compressed(pass_: QuantizeWeights, sets: list[torch.Tensor]) -> tuple[graphopt.Graph, list[str]]:
    graph = graphopt.parse(NET)
    result = pass_.run(graph, PassContext(calibration=sets))
    verify(graph)
    return graph, result.notes


def tuned(rounds: int, **options: object) -> QuantizeWeights:
    return QuantizeWeights(**{"dtype": "uint2", "block_size": 16, "smallest": 1, "tuning": rounds, **options})  # type: ignore[arg-type]


def test_outputs_come_nearer_and_integers_stay() -> None:
    sets, held = list(tokens(256).split(4)), tokens(200, seed=1)
    plain, _ = compressed(ROUGH, sets)
    better, notes = compressed(tuned(4), sets)
    wanted = run_graph(graphopt.parse(NET), held)[0]
    gain = decibels(wanted, run_graph(better, held)[0]) - decibels(wanted, run_graph(plain, held)[0])
    assert gain > 1 and "tuned scales" in notes[-1]
    for ends in ("_quantized", "_packed", "_zero_point"):
        before, after = stored(plain, ends), stored(better, ends)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    before, after = stored(plain, "_scale"), stored(better, "_scale")
    assert {x.dtype for x in after.values()} == {torch.float16} and len(before) == len(after) == 3
    assert all((x > 0).all() for x in after.values())


def test_the_caller_keeps_its_weights_and_what_is_exact_stays() -> None:
    graph = graphopt.parse(NET)
    weights = {name: value.constant.tensor for name, value in graph.constants.items()}  # type: ignore[union-attr]
    for weight in weights.values():
        weight.data.copy_(torch.randint(-1, 2, weight.shape, generator=torch.Generator().manual_seed(2)))
    copies = {name: weight.clone() for name, weight in weights.items()}
    result = tuned(2, dtype="int2").run(graph, PassContext(calibration=list(tokens(32).split(4))))
    assert "scales stay" in result.notes[-1]
    assert all(torch.equal(weights[name], copy) for name, copy in copies.items())


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 20), st.integers(0, 100), st.sampled_from(["uint2", "int4", "uint3"]), st.integers(1, 2))
def test_noise_on_data_held_out_never_grows(count: int, seed: int, dtype: str, rounds: int) -> None:
    sets = list(tokens(count, seed).split(1))
    held = [x for index, x in enumerate(sets) if index % 8 == 7] or sets
    plain, _ = compressed(tuned(0, dtype=dtype), sets)
    better, _ = compressed(tuned(rounds, dtype=dtype), sets)

    def noise(graph: graphopt.Graph) -> float:
        wanted = [run_graph(graphopt.parse(NET), x)[0] for x in held]
        found = [run_graph(graph, x)[0] for x in held]
        return sum(float((f - w).square().sum() / w.square().sum()) for f, w in zip(found, wanted))

    assert noise(better) <= noise(plain) * (1 + 1e-4)


def test_bad_input() -> None:
    with pytest.raises(GraphOptError, match="tuning"):
        QuantizeWeights(tuning=-1)
    with pytest.raises(InputError, match="needs data for tuning"):
        tuned(1).run(graphopt.parse(NET), PassContext())
    integers = graphopt.parse(NET.replace("return %o", "%a = argmax(%o) {dim=1}\nreturn %a"))
    with pytest.raises(GraphOptError, match="differentiable"):
        tuned(1).run(integers, PassContext(calibration=[tokens(4)]))


def test_a_trained_network() -> None:
    trained = trained_lenet()
    x = trained.data.images[:100]
    found = []
    for rounds in (0, 3):
        small = graphopt.compile(
            trained.module,
            (x[:4],),
            target="fx",
            trainable=False,
            dynamic_shapes="batch",
            passes=f"default,quantize-weights{{dtype=uint2, tuning={rounds}}}",
            calibration=trained.data.train_images[:128].split(8),
            validate=False,
        )
        with torch.no_grad():
            found.append(decibels(trained.module(x), small(x)))
    assert found[1] > found[0] + 0.5
