"""The profit guard of single layers: the integer program against brute force, and what it leaves in floating point."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphopt
from graphopt.analysis import Interpreter
from graphopt.ir import Node
from graphopt.ops.quantization import find_format
from graphopt.passes.quantization import speed
from graphopt.passes.quantization.integer_program import IntegerProgram
from graphopt.passes.quantization.micro_models import MicroModels, Times
from graphopt.passes.quantization.placement import Placement, activations_of, place, tail_of
from graphopt.passes.quantization.preparation import pools_for_means
from graphopt.passes.quantization.profiles import Profile, get_profile
from graphopt.passes.quantization.speed import Flow, Measured, measure, slower
from graphopt.passes.quantize import Quantize
from graphopt.passmanager import PassContext
from graphopt.rewrite import Rewriter
from graphopt.targets import ShowsKernels, get_engine
from tests.passes.test_quantize import RESIDUAL, SMALL, data, emitted, ops, quantized

BRANCHES = """
input %x: f32[N, 4, 6, 6]
parameter %w: f32[4, 4, 3, 3]
parameter %v: f32[4, 4, 1, 1]
%a = conv2d(%x, %w) {padding=(1, 1)}
%r = relu(%a)
%s = sigmoid(%r)
%b = conv2d(%r, %v)
%c = conv2d(%s, %v)
%t = add.Tensor(%b, %r)
%d = conv2d(%t, %v)
return %d, %c"""

GRAPHS = {"small": SMALL, "residual": RESIDUAL, "branches": BRANCHES}
PROFILE = get_profile("onnxruntime")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_the_solver_finds_what_brute_force_finds(draw: st.DataObject) -> None:
    count = draw.draw(st.integers(1, 7))
    numbers = st.integers(-9, 9)
    unit = draw.draw(st.sampled_from([1.0, 1e-7, 1e5]))
    costs = [unit * draw.draw(numbers) for _ in range(count)]
    rows = [
        ([draw.draw(numbers) for _ in range(count)], draw.draw(st.integers(-10, 20)))
        for _ in range(draw.draw(st.integers(0, 3)))
    ]
    program = IntegerProgram()
    for cost in costs:
        program.variable(cost)
    for factors, high in rows:
        program.constrain({i: unit * float(f) for i, f in enumerate(factors)}, high=unit * high)

    def fits(x: Sequence[int]) -> bool:
        return all(sum(f * v for f, v in zip(factors, x)) <= high for factors, high in rows)

    def value(x: Sequence[int]) -> float:
        return sum(c * v for c, v in zip(costs, x))

    found = program.solve()
    feasible = [x for x in itertools.product((0, 1), repeat=count) if fits(x)]
    if not feasible:
        assert found is None
        return
    assert found is not None and fits(found)
    assert math.isclose(value(found), min(map(value, feasible)), rel_tol=1e-9, abs_tol=1e-6 * unit)


def planned(text: str) -> tuple[graphopt.Graph, Placement]:
    graph = graphopt.parse(text)
    return graph, place(graph, PROFILE, lambda node: None)


def total(plan: Placement, profile: Profile, measured: Measured, integers: set[Node]) -> float:
    """The time of a choice, by walking over its values."""
    fusions = {**plan.layers, **plan.others}
    seconds = sum(t.integer if n in integers else t.float_ for n, t in measured.nodes.items())
    producers = {tail_of(node, profile): node for node in fusions}
    for value, times in measured.conversions.items():
        takers = [n for n, f in fusions.items() if value in activations_of(n, f, n in plan.layers)]
        integer_readers = [n for n in takers if n in integers]
        float_readers = [n for n in value.users if n not in integer_readers]
        producer = producers.get(value)
        if producer not in integers and integer_readers:
            seconds += times.float_
        if producer in integers and float_readers and fusions[producer].result != "any":  # type: ignore[index]
            seconds += times.integer
    return seconds


@settings(deadline=None, max_examples=25)
@given(st.data(), st.sampled_from(sorted(GRAPHS)))
def test_the_choice_is_the_fastest_of_all(draw: st.DataObject, name: str) -> None:
    _, plan = planned(GRAPHS[name])
    fusions = {**plan.layers, **plan.others}
    seconds = st.integers(0, 20).map(lambda n: n * 1e-6)
    nodes = {node: Times(draw.draw(seconds), draw.draw(seconds)) for node in fusions}
    values = Flow(plan, PROFILE).values
    measured = Measured(nodes, {value: Times(draw.draw(seconds), draw.draw(seconds)) for value in values})
    stay = slower(plan, PROFILE, measured)
    chosen = {node for node in fusions if node not in stay}
    least = math.inf
    for size in range(len(fusions) + 1):
        for some in itertools.combinations(fusions, size):
            integers = set(some)
            read = {n: [r for r in fusions if tail_of(n, PROFILE) in activations_of(r, fusions[r], r in plan.layers)]
                    for n in plan.others}  # fmt: skip
            if all(n not in integers or not read[n] or integers & set(read[n]) for n in plan.others):
                least = min(least, total(plan, PROFILE, measured, integers))
    assert total(plan, PROFILE, measured, chosen) <= least + 1e-10


def test_conversions_decide() -> None:
    """A layer that gains less than the conversions around it stays; two in a row that share them do not."""
    _, plan = planned(SMALL)
    layers = list(plan.layers)

    def choice(gains: Sequence[float], conversion: float) -> int:
        times = {n: Times(10e-6, 10e-6 - gains[layers.index(n)]) if n in layers else Times(0.0, 0.0)
                 for n in (*plan.layers, *plan.others)}  # fmt: skip
        convert = dict.fromkeys(Flow(plan, PROFILE).values, Times(conversion, conversion))
        return len(layers) - len(set(layers) & set(slower(plan, PROFILE, Measured(times, convert))))

    assert choice([3e-6, 3e-6], 0.0) == 2
    assert choice([3e-6, -1e-6], 5e-6) == 0
    assert choice([3e-6, 3e-6], 5e-6) == 2
    assert choice([9e-6, -9e-6], 1e-6) == 1


def with_times(monkeypatch: pytest.MonkeyPatch, slow: Sequence[str]) -> None:
    """Operators of these names are slow on integers, all others fast, and conversions free; alone and in graphs."""

    class Fixed:
        def __init__(self, *args: Any) -> None: ...

        def node(self, node: Node, fusion: Any, is_layer: bool) -> Times:
            return Times(1e-5, 2e-5 if node.op.base in slow else 1e-6)

        def conversions(self, value: Any) -> Times:
            return Times(0.0, 0.0)

    def whole(engine: Any, graphs: Sequence[Any], rounds: int) -> list[float]:
        return [sum(map(seconds, one.graph)) for one in graphs]

    def seconds(node: Node) -> float:
        if node.op.base not in ("aten.conv2d", "aten.linear"):
            return 0.0
        if node.operands[1].producer is None:  # type: ignore[union-attr]
            return 1e-5
        return 2e-5 if node.op.base in slow else 1e-6

    monkeypatch.setattr(speed, "MicroModels", Fixed)
    monkeypatch.setattr(speed, "best_seconds", whole)


def test_slow_layers_stay_and_the_report_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with_times(monkeypatch, ["aten.conv2d"])
    context = PassContext(
        target="onnxruntime", calibration=data().split(4), samples=[[data()]], engine=get_engine("onnxruntime")
    )
    graph = graphopt.parse(SMALL)
    result = Quantize(only_if_faster=True).run(graph, context)
    assert [n.name for n in graph if n.op.base == "aten.conv2d"] and graph.constants["w"] is not None
    (layer,) = result.details.layers
    assert layer.name == "v" and layer.milliseconds == pytest.approx((1e-2, 1e-3))
    assert any(
        "conv2d" in line and "0.02 ms on integers and 0.01 ms in floating point" in line for line in result.notes
    )
    with_times(monkeypatch, ["aten.conv2d", "aten.linear"])
    result = Quantize(only_if_faster=True).run(graph := graphopt.parse(SMALL), context)
    assert "quantize" not in ops(graph) and "no faster" in result.notes[0]


def test_whole_graphs_have_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators that are fast alone stay in floating point if no graph with them on integers is faster."""
    with_times(monkeypatch, [])
    monkeypatch.setattr(speed, "best_seconds", lambda engine, graphs, rounds: [1e-3] + [2e-3] * (len(graphs) - 1))
    x = data(shape=(4, 6, 6))
    context = PassContext(target="onnxruntime", calibration=[x], samples=[[x]], engine=get_engine("onnxruntime"))
    result = Quantize(only_if_faster=True).run(graph := graphopt.parse(RESIDUAL), context)
    assert not result.changed and str(graph) == str(graphopt.parse(RESIDUAL))
    assert any("the graph takes 1 ms in floating point and 2 ms at best" in note for note in result.notes)


def test_without_an_engine_it_says_that_nothing_was_measured() -> None:
    result = Quantize(only_if_faster=True).run(graphopt.parse(SMALL), PassContext("onnxruntime", calibration=[data()]))
    assert any("not measured: the target has no engine" in note for note in result.notes)


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_every_operator_is_timed_on_the_engine(name: str) -> None:
    graph, plan = planned(GRAPHS[name])
    x = data(2, tuple(graph.inputs[0].shape[1:]))  # type: ignore[union-attr, arg-type]
    measured = measure(graph, plan, PROFILE, find_format("uint8"), get_engine("onnxruntime"), [x])
    assert set(measured.nodes) == {*plan.layers, *plan.others}
    assert all(t >= 0 for times in (*measured.nodes.values(), *measured.conversions.values()) for t in times)
    assert any(times.integer > 0 and times.float_ > 0 for times in measured.nodes.values())


def test_a_network_whose_integers_are_slower_stays_as_it_was() -> None:
    """A depthwise convolution has no fast integer kernel; on a network of a few operators nothing pays."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    x = torch.randn(16, 8, 4, 4)
    compiled = emitted(module, x, "default,quantize{only_if_faster=true},fold-constants,dead-code")
    with torch.no_grad():
        assert torch.allclose(compiled(x), module(x), atol=0.2, rtol=0.1)
    if not any(node.name == "graphopt.quantize" for node in compiled.graph):
        assert "faster" in str(compiled.report)


def test_the_guard_leaves_quantization_alone_where_all_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    with_times(monkeypatch, [])
    context = PassContext(
        target="onnxruntime", calibration=[data()], samples=[[data()]], engine=get_engine("onnxruntime")
    )
    graph = Quantize(only_if_faster=True)(graphopt.parse(SMALL), context)
    assert str(graph) == str(quantized(SMALL, [data()]))


CLIPPED = """
input %x: f32[N, 4, 6, 6]
parameter %w: f32[4, 4, 3, 3]
%a = conv2d(%x, %w) {padding=(1, 1)}
%r = relu6(%a)
%b = conv2d(%r, %w) {padding=(1, 1)}
%h = hardtanh(%b) {min_val=0.0, max_val=6.0}
%c = conv2d(%h, %w) {padding=(1, 1)}
%q = relu(%c)
%p = max_pool2d(%q) {kernel_size=(2, 2)}
%d = conv2d(%p, %w) {padding=(1, 1)}
%s = add.Tensor(%d, %p)
%e = relu(%s)
%z = conv2d(%e, %w)
return %z"""


@pytest.mark.parametrize("text", [*GRAPHS.values(), CLIPPED])
def test_what_is_timed_has_the_kernels_of_the_result(text: str) -> None:
    """Scales that mean nothing still let the engine fuse what it fuses with real ones, clips among it."""
    graph = graphopt.parse(text)
    pools_for_means(graph, Rewriter(graph), "test")
    plan = place(graph, PROFILE, lambda node: None)
    engine = get_engine("onnxruntime")
    assert isinstance(engine, ShowsKernels)
    timed = speed.WholeGraph(graph, plan, PROFILE, find_format("uint8")).quantized({})
    x = data(8, tuple(graph.inputs[0].shape[1:]))  # type: ignore[union-attr, arg-type]
    result = Quantize()(graphopt.parse(text), PassContext(target="onnxruntime", calibration=[x]))
    names = [sorted(kernel.operator for kernel in engine.kernels(one)) for one in (timed, result)]
    assert names[0] == names[1]
    assert "Conv" not in names[0] and "Relu" not in names[0] and "Clip" not in names[0]


def test_operators_are_timed_from_integers_to_integers() -> None:
    graph, plan = planned(CLIPPED)
    engine = get_engine("onnxruntime")
    assert isinstance(engine, ShowsKernels)
    found: list[Counter[str]] = []

    class Watching(MicroModels):
        def _seconds(self, models: Sequence[Any]) -> list[float]:
            found.extend(Counter(kernel.operator for kernel in engine.kernels(one.graph)) for one in models)
            return [1e-6] * len(models)

    values: dict[Any, torch.Tensor] = {}
    Interpreter(graph, observer=lambda node, results: values.update(zip(node.results, results))).run(data(1, (4, 6, 6)))
    values[graph.inputs[0]] = data(1, (4, 6, 6))
    models = Watching(engine, PROFILE, find_format("uint8"), values)
    for node, fusion in {**plan.layers, **plan.others}.items():
        del found[:]
        models.node(node, fusion, node in plan.layers)
        if found:
            float_, integer = found
            assert not any(name in integer for name in ("QuantizeLinear", "DequantizeLinear", "Conv", "Relu", "Clip"))
            assert not any(name.startswith("QLinear") for name in float_)
