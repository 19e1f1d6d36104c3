"""choose-recipe: what is applied is the trial that is marked best, judged on samples that it was not fitted to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.analysis import run_graph
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ir import verify
from graphopt.passes.choose_recipe import NOTHING_TO_COMPARE, ChooseRecipe, gains
from graphopt.passes.quantize import Quantize
from graphopt.passes.support.folds import fold_of
from graphopt.passmanager import PassContext
from graphopt.testing.generate import random_graph
from graphopt.testing.inputs import sample_inputs
from tests.passes.figures import decibels as ratio
from tests.passes.test_quantize import SMALL, data
from tests.zoo import trained

OUTLIERS = """
input %x: f32[N, 16]
parameter %g: f32[16]
parameter %h: f32[16]
parameter %w: f32[8, 16]
%n = layer_norm(%x, %g, %h) {normalized_shape=(16,)}
%y = linear(%n, %w)
return %y"""
"""A norm with channels of very different size, if they are made so."""


def outliers() -> graphopt.Graph:
    graph = graphopt.parse(OUTLIERS)
    values = {name: value.constant.tensor for name, value in graph.constants.items()}  # type: ignore[union-attr]
    values["g"].data.copy_(torch.logspace(-2, 2, 16))
    values["h"].data.zero_()
    values["w"].data.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)) / torch.logspace(-2, 2, 16))
    return graph


def context(*batches: torch.Tensor) -> PassContext:
    return PassContext(target="onnxruntime", calibration=batches)


def test_the_recipe_that_helps_is_chosen_and_all_are_listed() -> None:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
    graph, small = outliers(), outliers()
    result = ChooseRecipe().run(small, context(*x.split(16)))
    trials = result.details.trials  # type: ignore[union-attr]
    (chosen,) = [trial for trial in trials if trial.chosen]
    assert "smooth-quant" in chosen.recipe and chosen.decibels > trials[0].decibels + 10
    assert len(trials) == 8 and [trial.line() for trial in trials] == result.notes[:8]
    plain = Quantize()(outliers(), context(x))
    wanted = run_graph(graph, x)[0]
    assert ratio(wanted, run_graph(small, x)[0]) > ratio(wanted, run_graph(plain, x)[0]) + 10


def test_a_mark_is_that_of_the_recipe_alone_on_the_other_half() -> None:
    x = data(20)
    graph = graphopt.parse(SMALL)
    only = ChooseRecipe(scaling=("",), ranges=({"power": 2.0},), weights=({},), biases=({},))
    result = only.run(graph.clone(), context(x))
    (trial,) = result.details.trials  # type: ignore[union-attr]
    fold = torch.tensor([fold_of(index) for index in range(20)])
    small = Quantize(power=2.0)(graph.clone(), context(x[fold == 0]))
    held = x[fold == 1]
    assert trial.decibels == pytest.approx(ratio(run_graph(graph, held)[0], run_graph(small, held)[0]), abs=1e-3)
    applied = only(graph.clone(), context(x))
    assert torch.equal(run_graph(applied, x)[0], run_graph(Quantize(power=2.0)(graph.clone(), context(x)), x)[0])


def test_chance_is_no_gain() -> None:
    noise = torch.rand(100, generator=torch.Generator().manual_seed(0))
    swapped = noise.flip(0)
    assert not gains(noise, swapped) and not gains(swapped, noise) and gains(noise, 0.9 * noise)
    assert gains(torch.ones(1), torch.zeros(1)) and not gains(torch.ones(1), torch.ones(1))


def test_splits_into_batches_change_nothing() -> None:
    x = data(24)
    found = []
    for batches in ([x], x.split(7), x.split(1)):
        small = ChooseRecipe(weights=({},))(graphopt.parse(SMALL), context(*batches))
        found.append(run_graph(small, x)[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_recipe_that_fails_is_passed_over() -> None:
    x = data(16)
    asked = ChooseRecipe(scaling=("",), ranges=({}, {"ignore": ("nowhere",)}), weights=({},), biases=({},))
    result = asked.run(graphopt.parse(SMALL), context(x))
    first, second = result.details.trials  # type: ignore[union-attr]
    assert first.chosen and not second.chosen and "nowhere" in second.line() and "failed" in second.line()
    with pytest.raises(UnknownNameError, match="nowhere"):
        ChooseRecipe(quantizer={"ignore": ("nowhere",)}).run(graphopt.parse(SMALL), context(x))


def test_nothing_to_quantize() -> None:
    graph = graphopt.parse("input %x: f32[N, 4]\n%y = relu(%x)\nreturn %y")
    result = ChooseRecipe().run(graph, context(torch.randn(8, 4)))
    assert not result.changed and any("nothing to quantize" in note for note in result.notes)


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match="power"):
        ChooseRecipe(ranges=({"pover": 2},))
    with pytest.raises(UnknownNameError):
        ChooseRecipe(scaling=("", "smooth-quants"))
    with pytest.raises(GraphOptError, match="at least one choice"):
        ChooseRecipe(ranges=())
    with pytest.raises(GraphOptError, match="samples"):
        ChooseRecipe(samples=0)
    with pytest.raises(InputError, match="data"):
        ChooseRecipe().run(graphopt.parse(SMALL), PassContext(target="onnxruntime"))
    with pytest.raises(InputError, match="NaN"):
        ChooseRecipe().run(graphopt.parse(SMALL), context(data() * float("nan")))
    integers = graphopt.parse(SMALL.replace("return %o", "%i = argmax(%o) {dim=1}\nreturn %i"))
    assert NOTHING_TO_COMPARE in ChooseRecipe().run(integers, context(data())).notes


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
def test_random_graphs(seed: int) -> None:
    graph = random_graph(seed)
    inputs = sample_inputs(graph, seed=seed)
    pass_ = ChooseRecipe(ranges=({}, {"power": 2.0}), weights=({},), biases=({},))
    try:
        result = pass_.run(graph, PassContext(target="onnxruntime", samples=[inputs]))
    except InputError:
        return
    verify(graph)
    if result.details is not None:
        assert sum(trial.chosen for trial in result.details.trials) == 1  # type: ignore[attr-defined]


def test_a_trained_network() -> None:
    """In pipeline text, with the engine; it beats what it begins with on images that no recipe has seen."""
    model, images = trained.trained_lenet().module, trained.mnist()
    calibration = images.train_images[:64].split(16)
    found = []
    for passes in ("quantize{profile=openvino}", "choose-recipe{quantizer={profile=openvino}, ranges=({}, {power=2})}"):
        small = graphopt.compile(
            model,
            (images.images[:4],),
            target="onnxruntime",
            dynamic_shapes="batch",
            passes=f"default,{passes},fold-constants,dead-code",
            calibration=calibration,
            validate=False,
        )
        with torch.no_grad():
            found.append(ratio(model(images.images), small(images.images)))
    assert found[1] > found[0] - 0.3 and found[1] > 40
    assert len(small.report.quantization.trials) == 7
