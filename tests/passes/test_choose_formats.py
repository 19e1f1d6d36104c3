"""choose-formats: the integer program against brute force, sensitivities against their definitions, budgets that hold,
and the caller's metric."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.analysis import graph_cost, run_graph
from graphopt.errors import GraphOptError, InputError, UnknownNameError
from graphopt.ir import verify
from graphopt.ops.quantization import find_format
from graphopt.passes.choose_formats import ChooseFormats
from graphopt.passes.format_search.candidates import Static, WeightOnly
from graphopt.passes.format_search.choosing import Problem, Timing
from graphopt.passes.format_search.sensitivity import divergence, hutchinson_traces, measure
from graphopt.passes.quantization.micro_models import Times
from graphopt.passes.quantization.placement import place
from graphopt.passes.quantization.speed import Flow, Measured
from graphopt.passes.quantize import Quantize
from graphopt.passes.quantize_weights import QuantizeWeights
from graphopt.passmanager import PassContext
from graphopt.targets import get_engine
from tests.passes.test_quantize import SMALL, data
from tests.passes.test_quantize_speed import GRAPHS, PROFILE, total
from tests.zoo.trained import accuracy, trained_lenet

CHAIN = """
input %x: f32[N, 32]
parameter %w1: f32[64, 32]
parameter %w2: f32[48, 64]
parameter %w3: f32[8, 48]
%a = linear(%x, %w1)
%r = relu(%a)
%b = linear(%r, %w2)
%s = relu(%b)
%c = linear(%s, %w3)
return %c"""

FORMATS = ("int8", "int4", "float")


def chain() -> tuple[graphopt.Graph, torch.Tensor]:
    return graphopt.parse(CHAIN), torch.randn(16, 32, generator=torch.Generator().manual_seed(1))


def context(x: Any, **more: Any) -> PassContext:
    return PassContext(target="onnxruntime", calibration=[x], samples=[[x]], engine=get_engine("onnxruntime"), **more)


def chosen(text: str, x: torch.Tensor, **options: Any) -> tuple[graphopt.Graph, Any]:
    graph = graphopt.parse(text)
    result = ChooseFormats(**options).run(graph, context(x))
    return graph, result.details.search


# The program


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_the_choice_is_the_best_of_all(draw: st.DataObject) -> None:
    names = [f"w{i}" for i in range(draw.draw(st.integers(1, 5)))]
    keys = list(itertools.product(names, FORMATS))
    number = st.integers(0, 30).map(float)
    errors = {key: 0.0 if key[1] == "float" else draw.draw(number) * 1e-4 for key in keys}
    costs = {kind: {key: draw.draw(number) / 100 for key in keys} for kind in ("size", "bops")}
    problem = Problem(names, FORMATS, errors, costs, {"size": 0.05, "bops": 0.0})
    limits = {
        kind: draw.draw(st.integers(0, 100)) / 100 for kind in draw.draw(st.sets(st.sampled_from(["size", "bops"])))
    }

    def cost(formats: tuple[str, ...], kind: str) -> float:
        return problem.rest[kind] + math.fsum(costs[kind][key] for key in zip(names, formats))

    everything = list(itertools.product(FORMATS, repeat=len(names)))
    feasible = [f for f in everything if all(cost(f, kind) <= limit + 1e-9 for kind, limit in limits.items())]
    found = problem.choose(limits)
    if not feasible:
        assert found is None
        with pytest.raises(GraphOptError, match=r"cannot be (reached|met)"):
            problem.check(limits)
        return
    assert found is not None
    assert tuple(found.formats.values()) in feasible
    least = min(math.fsum(errors[key] for key in zip(names, f)) for f in feasible)
    assert found.error == pytest.approx(least, abs=1e-9)
    cheapest = problem.choose(limits, cheapest="size")
    assert cheapest is not None
    assert cheapest.costs["size"] == pytest.approx(min(cost(f, "size") for f in feasible), abs=1e-9)
    points = problem.pareto("size", limits)
    for point in points:
        beaten = [
            f
            for f in feasible
            if cost(f, "size") <= point.costs["size"] + 1e-9
            and math.fsum(errors[key] for key in zip(names, f)) < point.error - 1e-9
        ]
        assert not beaten


@settings(deadline=None, max_examples=12)
@given(st.data(), st.sampled_from(sorted(GRAPHS)))
def test_latency_counts_conversions_and_what_stands_between(draw: st.DataObject, name: str) -> None:
    graph = graphopt.parse(GRAPHS[name])
    plan = place(graph, PROFILE, lambda node: None)
    fusions = {**plan.layers, **plan.others}
    seconds = st.integers(1, 20).map(lambda n: n * 1e-6)
    nodes = {node: Times(draw.draw(seconds), draw.draw(seconds)) for node in fusions}
    values = Flow(plan, PROFILE).values
    measured = Measured(nodes, {value: Times(draw.draw(seconds), draw.draw(seconds)) for value in values})
    x = data(1, tuple(graph.inputs[0].shape[1:]))  # type: ignore[union-attr, arg-type]
    candidates = Static(Quantize(), graph, PROFILE, [x]).candidates
    timing = Timing(plan, PROFILE, measured, candidates)
    formats = ("int8", "float")
    names = [candidate.name for candidate in candidates]
    errors = {(one, "int8"): draw.draw(st.integers(1, 9)) / 10 for one in names}
    problem = Problem(names, formats, errors, {}, {}, timing)
    best: dict[tuple[str, ...], float] = {}
    others = list(plan.others)
    for pick in itertools.product(formats, repeat=len(names)):
        layers = {node for one, f in zip(candidates, pick) if f == "int8" for node in one.nodes}
        options = [
            layers | set(some) for size in range(len(others) + 1) for some in itertools.combinations(others, size)
        ]
        sound = [integers for integers in options if _sound(integers, plan)]
        best[pick] = min(total(plan, PROFILE, measured, integers) for integers in sound) / timing.float_seconds
    limit = draw.draw(st.sampled_from(sorted(best.values())))
    found = problem.choose({"latency": limit})
    assert found is not None and found.costs["latency"] <= limit + 1e-6
    feasible = [pick for pick, share in best.items() if share <= limit + 1e-9]
    least = min(sum(errors.get((one, f), 0.0) for one, f in zip(names, pick)) for pick in feasible)
    assert found.error == pytest.approx(least)


def _sound(integers: set[Any], plan: Any) -> bool:
    flow = Flow(plan, PROFILE)
    made = {node: value for value, node in flow.producers.items()}
    return all(
        node not in integers or not flow.readers.get(made[node]) or integers & set(flow.readers[made[node]])
        for node in plan.others
    )


# Sensitivity


def test_hutchinson_traces_are_those_of_the_jacobian() -> None:
    graph, x = chain()
    weights = [graph.constants[name] for name in ("w1", "w3")]
    tensors = [value.constant.tensor.clone().requires_grad_() for value in weights]  # type: ignore[union-attr]
    middle = graph.constants["w2"].constant.tensor  # type: ignore[union-attr]

    def run(first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        return ((x[:1] @ first.t()).relu() @ middle.t()).relu() @ last.t()

    jacobians = torch.autograd.functional.jacobian(run, tuple(tensors))
    found = hutchinson_traces(graph, weights, [[x[:1]]], probes=1000)
    for value, jacobian in zip(weights, jacobians):
        assert found[value] == pytest.approx(float(jacobian.square().sum()), rel=0.15)


def test_one_output_needs_one_probe() -> None:
    graph = graphopt.parse("input %x: f32[1, 8]\nparameter %w: f32[1, 8]\n%y = linear(%x, %w)\nreturn %y")
    x = torch.arange(8.0).reshape(1, 8)
    assert hutchinson_traces(graph, [graph.constants["w"]], [[x]], probes=1) == {graph.constants["w"]: 140.0}


@pytest.mark.parametrize("kind", ["output", "kl"])
def test_effects_on_outputs_are_those_of_the_pass(kind: str) -> None:
    graph, x = chain()
    scheme = WeightOnly(QuantizeWeights(smallest=1), graph, [x])
    found = measure(kind, graph, scheme, ["uint8", "uint3"], [[x]])
    (reference,) = run_graph(graph, x)
    for name, format_ in found:
        pass_ = QuantizeWeights(smallest=1, formats={name: format_, "*": "float"})
        (got,) = run_graph(pass_(graphopt.parse(CHAIN), PassContext()), x)
        if kind == "kl":
            expected = divergence([reference], [got])
        else:
            expected = float((got - reference).square().sum() / reference.square().sum())
        assert found[name, format_] == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_noise_of_a_layer_is_that_of_its_own_output() -> None:
    graph, x = chain()
    scheme = Static(Quantize(), graph, PROFILE, [x])
    found = measure("sqnr", graph, scheme, ["int8", "int3"], [[x]])
    w = graph.constants["w1"].constant.tensor  # type: ignore[union-attr]
    scale = w.abs().amax(1) / 3
    rounded = (w / scale[:, None]).round().clamp(-4, 3) * scale[:, None]
    step = (x.max() - x.min()) / 255
    zero = (-x.min() / step).round()
    seen = ((x / step).round() + zero).clamp(0, 255).sub(zero) * step
    expected = (seen @ rounded.t() - x @ w.t()).square().sum() / (x @ w.t()).square().sum()
    assert found["w1", "int3"] == pytest.approx(float(expected), rel=1e-3)
    assert all(found[name, "int8"] < found[name, "int3"] for name in ("w1", "w2", "w3"))


@pytest.mark.parametrize("kind", ["sqnr", "output", "kl", "hessian"])
def test_narrower_formats_are_minded_more(kind: str) -> None:
    for text, x in ((CHAIN, chain()[1]), (SMALL, data())):
        graph = graphopt.parse(text)
        found = measure(kind, graph, Static(Quantize(), graph, PROFILE, [x]), ["int8", "int4", "int2"], [[x]])
        for name in {name for name, _ in found}:
            assert 0 <= found[name, "int8"] < found[name, "int4"] < found[name, "int2"]


# Budgets


@pytest.mark.parametrize("size", [0.2, 0.35, 0.6])
def test_the_size_that_is_promised_is_the_size_that_is_stored(size: float) -> None:
    _, x = chain()
    options: Mapping[str, Any] = {"smallest": 1, "block_size": 16}
    graph, search = chosen(CHAIN, x, scheme="weights", size=size, quantizer=options)
    whole = graph_cost(graphopt.parse(CHAIN)).constant_bytes
    (point,) = [point for point in search.points if point.chosen]
    stored = sum(
        value.constant.tensor.numel() * value.dtype.bits / 8  # type: ignore[union-attr]
        for value in graph.constants.values()
    )
    assert stored <= size * whole
    assert point.costs["size"] * whole == pytest.approx(stored)


def test_bit_operations() -> None:
    _, x = chain()
    _, search = chosen(CHAIN, x, bops=0.045)
    macs = {"w1": 32 * 64, "w2": 64 * 48, "w3": 48 * 8}
    operations = {"int8": 64, "int4": 32, "float": 1024}
    (point,) = [point for point in search.points if point.chosen]
    expected = sum(macs[name] * operations[f] for name, f in search.formats.items()) / (1024 * sum(macs.values()))
    assert point.costs["bops"] == pytest.approx(expected) and expected <= 0.045
    assert set(search.formats.values()) == {"int8", "int4"}
    assert [p.costs["bops"] for p in search.points] == sorted(p.costs["bops"] for p in search.points)


def test_latency_is_measured() -> None:
    x = data()
    graph, search = chosen(SMALL, x, latency=1.0, formats=("int8", "float"))
    assert set(search.formats.values()) == {"float"}  # nothing errs less
    assert not any(node.name == "graphopt.quantize" for node in graph)
    with pytest.raises(GraphOptError, match=r"latency=1e-06 cannot be reached: the least is latency="):
        chosen(SMALL, x, latency=1e-6)


def test_budgets_that_cannot_be_met_name_the_least() -> None:
    _, x = chain()
    with pytest.raises(GraphOptError, match=r"size=0.01 cannot be reached: the least is size=0\.\d+"):
        chosen(CHAIN, x, size=0.01)


# The metric


def fidelity(graph: graphopt.Graph) -> float:
    """Minus the relative error."""
    original, x = chain()
    (wanted,), (got,) = run_graph(original, x), run_graph(graph, x)
    return -float((got - wanted).norm() / wanted.norm())


def test_the_cheapest_that_keeps_the_metric() -> None:
    _, x = chain()
    formats = ("int8", "int4", "int3", "float")
    graph, search = chosen(
        CHAIN, x, max_drop=0.02, minimize="bops", metric=fidelity, formats=formats, sensitivity="output"
    )
    assert search.kept and fidelity(graph) >= -0.02
    cheaper = [p for p in search.points if p.value is not None and not p.chosen]
    (mine,) = [p for p in search.points if p.chosen]
    assert mine.drop is not None and mine.drop <= 0.02
    assert all(p.drop > 0.02 for p in cheaper if p.costs["bops"] < mine.costs["bops"])
    assert any(p.costs["bops"] < mine.costs["bops"] for p in cheaper)
    tight = chosen(CHAIN, x, max_drop=0.0, minimize="bops", metric=fidelity, formats=formats)[1]
    assert set(tight.formats.values()) == {"float"}


def test_the_best_so_far_is_returned_where_nothing_keeps_the_metric() -> None:
    _, x = chain()
    graph = graphopt.parse(CHAIN)
    pass_ = ChooseFormats(max_drop=1e-6, metric=fidelity, minimize="bops", formats=("int8", "int3"))
    result = pass_.run(graph, context(x))
    search = result.details.search
    assert not search.kept and set(search.formats.values()) == {"int8"}
    assert any("dropped the least" in note for note in result.notes)
    assert -fidelity(graph) == pytest.approx(next(p.drop for p in search.points if p.chosen), rel=1e-6)


def test_trials_bound_the_questions() -> None:
    _, x = chain()
    asked: list[int] = []

    def counting(graph: graphopt.Graph) -> float:
        asked.append(1)
        return fidelity(graph)

    chosen(CHAIN, x, max_drop=0.05, metric=counting, trials=3, formats=("int8", "int5", "int4", "int3", "float"))
    assert len(asked) <= 4


def test_sensitivity_by_the_metric() -> None:
    _, x = chain()
    _, search = chosen(CHAIN, x, bops=0.05, metric=fidelity, sensitivity="metric")
    for name, errors in search.errors.items():
        one = Quantize(formats={name: "int4", "*": "float"})(graphopt.parse(CHAIN), context(x))
        assert errors["int4"] == pytest.approx(-fidelity(one), rel=1e-6)


def test_a_metric_that_fails_is_one_clear_error() -> None:
    _, x = chain()

    def raises(graph: graphopt.Graph) -> float:
        raise ZeroDivisionError("no labels")

    with pytest.raises(
        GraphOptError, match="metric raised ZeroDivisionError on the model in floating point: no labels"
    ):
        chosen(CHAIN, x, max_drop=0.1, metric=raises)
    for value in (math.nan, math.inf):
        with pytest.raises(GraphOptError, match=f"metric gave {value} on the model in floating point"):
            chosen(CHAIN, x, max_drop=0.1, metric=lambda graph, value=value: value)
    with pytest.raises(GraphOptError, match="metric raised"):
        chosen(CHAIN, x, max_drop=0.1, metric=lambda graph: "good")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": 0.0},
        {"size": 1.5},
        {"max_drop": 0.1},
        {"size": 0.5, "sensitivity": "metric"},
        {"size": 0.5, "sensitivity": "loudness"},
        {"size": 0.5, "scheme": "dynamic"},
        {"size": 0.5, "formats": ("int9",)},
        {"size": 0.5, "formats": ("float8_e5m2",)},
        {"size": 0.5, "quantizer": {"rouding": "gptq"}},
        {"latency": 0.5, "scheme": "weights"},
        {"max_drop": math.nan, "metric": fidelity},
        {"max_drop": 0.1, "metric": 3},
        {"size": 0.5, "trials": 0},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises((GraphOptError, UnknownNameError)):
        ChooseFormats(**options)


def test_no_data() -> None:
    with pytest.raises(InputError, match="choose-formats needs data"):
        ChooseFormats(size=0.5).run(graphopt.parse(CHAIN), PassContext(target="onnxruntime"))
    empty = graphopt.parse("input %x: f32[2]\n%y = relu(%x)\nreturn %y")
    assert "nothing to quantize" in ChooseFormats(size=0.5).run(empty, context(torch.ones(2))).notes[0]


# Models


def test_shared_weights_have_one_format() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(16, 16)
            self.head = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.inner(self.inner(x).relu()))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Tied().eval()
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    compiled = graphopt.quantize_search(module, (x,), calibration=[x], bops=0.05, formats=("int8", "int4"))
    search = compiled.report.quantization.search
    assert search is not None and len(search.formats) == 2
    assert compiled.report.to_dict()["quantization"]["search"]["formats"] == search.formats


def test_lenet_keeps_its_accuracy() -> None:
    trained = trained_lenet()
    images, labels = trained.data.images[:200], trained.data.labels[:200]

    def top1(model: graphopt.CompiledModel) -> float:
        with torch.no_grad():
            return float((model(images).argmax(1) == labels).double().mean())

    calibration = trained.data.train_images[:64].split(16)
    compiled = graphopt.quantize_search(
        trained.module,
        (images[:4],),
        metric=top1,
        max_drop=0.01,
        minimize="bops",
        dynamic_shapes="batch",
        calibration=calibration,
        formats=("int8", "int4", "int3", "float"),
        trials=6,
        validate=False,
    )
    search = compiled.report.quantization.search
    assert search is not None and search.kept
    (point,) = [point for point in search.points if point.chosen]
    assert point.costs["bops"] < 0.0625  # below 8 bits everywhere
    assert top1(compiled) >= search.baseline - 0.01 and accuracy(trained.module, trained.data) > 0.9
    assert point.value == top1(compiled)


@settings(deadline=None, max_examples=6)
@given(st.data())
def test_what_is_written_is_the_best_choice_within_the_budget(draw: st.DataObject) -> None:
    """Over random chains: the graph is well-typed, it holds what was chosen, and no other choice has less error."""
    widths = draw.draw(st.lists(st.sampled_from((16, 24, 40)), min_size=3, max_size=4))
    budget = draw.draw(st.sampled_from((0.2, 0.3, 0.45, 0.7, 1.0)))
    names = [f"w{i}" for i in range(len(widths) - 1)]
    text = [f"input %x0: f32[N, {widths[0]}]"]
    text += [f"parameter %{name}: f32[{out}, {inp}]" for name, inp, out in zip(names, widths, widths[1:])]
    for index, name in enumerate(names):
        text += [f"%y{index} = linear(%x{index}, %{name})", f"%x{index + 1} = relu(%y{index})"]
    graph = graphopt.parse("\n".join([*text, f"return %x{len(names)}"]))
    original = graph.clone()
    x = torch.randn(12, widths[0], generator=torch.Generator().manual_seed(draw.draw(st.integers(0, 99))))
    options: Mapping[str, Any] = {"smallest": 1, "block_size": 8, "rounding": "nearest", "search": False}
    pass_ = ChooseFormats(scheme="weights", size=budget, sensitivity="sqnr", formats=FORMATS, quantizer=options)
    scheme = WeightOnly(QuantizeWeights(**options), original, [x])
    sizes = {
        (one.name, format_): 4.0 * one.tensor.numel() if format_ == "float" else scheme.bytes(one, find_format(format_))
        for one in scheme.candidates
        for format_ in FORMATS
    }
    limit = budget * graph_cost(original).constant_bytes * (1 + 1e-9)
    choices = list(itertools.product(FORMATS, repeat=len(names)))
    fitting = [choice for choice in choices if sum(sizes[pair] for pair in zip(names, choice)) <= limit]
    if not fitting:
        with pytest.raises(GraphOptError, match="cannot be reached"):
            pass_.run(graph, context(x))
        return
    search = pass_.run(graph, context(x)).details.search
    verify(graph)
    tensors = [(value.constant.tensor, value.dtype) for value in graph.constants.values()]  # type: ignore[union-attr]
    assert sum(tensor.numel() * dtype.bits / 8 for tensor, dtype in tensors) <= limit  # type: ignore[union-attr]
    least = min(
        sum(search.errors[name].get(format_, 0.0) for name, format_ in zip(names, choice)) for choice in fitting
    )
    (point,) = [point for point in search.points if point.chosen]
    assert point.error == pytest.approx(least, rel=1e-6, abs=1e-12)
    assert point.error == pytest.approx(sum(search.errors[name].get(search.formats[name], 0.0) for name in names))
