"""Real models over simulated devices: the same numbers, memory within limits and as predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import graphopt
from graphopt import PassContext
from graphopt.analysis import run_graph
from graphopt.analysis.placement import copies_of, device_peaks
from graphopt.backends.devices.engine import DevicesEngine
from graphopt.backends.devices.executable import PlacedExecutable
from graphopt.calling import CallingConvention
from graphopt.errors import TargetError
from graphopt.ir import Graph
from graphopt.passes.partition import Partition
from graphopt.targets import Target
from tests.passes.partitioning.targets import described
from tests.zoo import MODELS

REAL = ("lenet", "resnet8", "hf-bert", "hf-mobilenet-v2", "transformer-encoder", "densenet", "hf-gpt2", "cond")


def traced(name: str) -> tuple[Graph, list[Any]]:
    args, kwargs = MODELS[name].inputs()
    graph = graphopt.trace(MODELS[name].build(), args, kwargs)
    return graph, CallingConvention(graph).flatten(args, kwargs)


def placed(graph: Graph, target: Target, **options: Any) -> Graph:
    copy = graph.clone()
    Partition(target, time_limit=1.0, **options).run(copy, PassContext())
    return copy


def load(graph: Graph, target: Target, **options: Any) -> PlacedExecutable:
    return DevicesEngine(target, simulate=True, **options).load(graph)


def check_same(graph: Graph, executable: PlacedExecutable, inputs: list[Any], runs: int = 2) -> None:
    expected = run_graph(graph, *inputs)
    for _ in range(runs):
        for before, after in zip(expected, executable.run(inputs)):
            assert torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("gpus", [1, 2])
def test_split_models_compute_the_same_within_their_limits(name: str, gpus: int) -> None:
    graph, inputs = traced(name)
    whole = max(device_peaks(graph, {}).values())
    target = described(gpus)
    runs = 0
    for share in (0.75, 0.9, 1.5):
        limits = {device.name: int(whole * share) for device in target.devices}
        try:
            split = placed(graph, target, memory=limits)
        except TargetError:
            continue
        executable = load(split, target, memory=limits, record=False)
        check_same(graph, executable, inputs)
        runs += 1
        predicted = device_peaks(split, {})
        for device, measured in executable.driver.peaks().items():
            assert measured <= limits[device]
            if not any(node.regions for node in split):
                assert measured == pytest.approx(predicted.get(device, 0), rel=0.1, abs=256)
    assert runs


@pytest.mark.parametrize(("edges", "name"), [(2, "lenet"), (4, "hf-bert"), (8, "hf-mobilenet-v2"), (8, "resnet8")])
@pytest.mark.parametrize("gpus", [1, 2])
def test_many_edges_cross_within_exact_limits(edges: int, name: str, gpus: int) -> None:
    """Memory is what the split needs and no byte more: then nothing may come early, and the peak is as predicted."""
    graph, inputs = traced(name)
    target = described(gpus)
    heavy = "aten.linear" if name == "hf-bert" else "aten.conv2d"
    other = next(n.name for n in graph if "norm" in n.name or "relu" in n.name)
    pin = {heavy: "gpu:0", other: "cpu" if gpus == 1 else "gpu:1"}
    limits = device_peaks(placed(graph, target, pin=pin), {})
    split = placed(graph, target, pin=pin, memory=limits)
    assert len(list(copies_of(split))) >= edges
    executable = load(split, target, memory=limits)
    check_same(graph, executable, inputs)
    predicted = device_peaks(split, {})
    for device, measured in executable.driver.peaks().items():
        assert measured == pytest.approx(predicted.get(device, 0), rel=0.1, abs=256)


def test_keywords_and_nested_results_through_compile() -> None:
    class Nested(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(6, 6)

        def forward(self, pair: Any, *, scale: Any, flag: bool = True) -> Any:
            hidden = self.linear(pair["a"]) * scale["s"]
            return {"sum": hidden + pair["b"], "rest": (hidden.relu(), flag)}

    model = Nested().eval()
    pair, scale = {"a": torch.randn(3, 6), "b": torch.randn(3, 6)}, {"s": torch.randn(6)}
    for target in (described(2), "cuda", "cpu+cuda"):
        made = graphopt.compile(model, (pair,), {"scale": scale}, target=target, simulate=True)
        expected, found = model(pair, scale=scale), made(pair, scale=scale)
        assert pytree.tree_structure(expected) == pytree.tree_structure(found)
        torch.testing.assert_close(found, expected)
        assert isinstance(made, torch.nn.Module) and made.engine == "devices"


def test_sizes_that_change() -> None:
    entry = MODELS["hf-bert"]
    args, kwargs = entry.inputs()
    model = entry.build()
    target = described(2)
    graph = graphopt.trace(model, args, kwargs, dynamic_shapes=entry.dynamic_shapes())
    split = placed(graph, target, pin={"aten.linear": "gpu:0", "aten.layer_norm": "gpu:1"})
    executable = load(split, target)
    for batch, length in ((2, 8), (3, 5), (1, 11)):
        args, kwargs = entry.inputs(batch, length)
        inputs = CallingConvention(graph).flatten(args, kwargs)
        check_same(graph, executable, inputs, runs=1)


def test_buffers_and_inputs_that_are_written() -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = torch.nn.Buffer(torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(x.sum(0))
            x.mul_(2)
            return x + self.count

    x = torch.ones(2, 3)
    made = graphopt.compile(Counting().eval(), (x.clone(),), target="cuda", simulate=True)
    model = Counting().eval()
    for _ in range(3):
        ours, theirs = x.clone(), x.clone()
        torch.testing.assert_close(made(ours), model(theirs))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["lenet", "hf-bert"])
def test_parts_in_onnx_runtime(name: str) -> None:
    graph, inputs = traced(name)
    target = described(1)
    cpu, gpu = target.devices
    target = replace(target, devices=(replace(cpu, engine="onnxruntime"), gpu))
    far = "aten.conv2d" if name == "lenet" else "aten.gelu"
    split = placed(graph, target, pin={"aten.linear": "cpu", far: "gpu:0"})
    executable = load(split, target)
    assert {p.opaque for p in executable._functions.values()} == {True, False}
    for before, after in zip(run_graph(graph, *inputs), executable.run(inputs)):
        torch.testing.assert_close(after, before)


def test_a_split_model_is_copied_and_saved(tmp_path: Any) -> None:
    model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()).eval(), torch.randn(2, 4)
    made = graphopt.compile(model, (x,), target="cuda", simulate=True)
    made.save(tmp_path / "m.graphopt")
    for copy in (graphopt.load(tmp_path / "m.graphopt"), __import__("copy").deepcopy(made)):
        assert copy.engine == "devices"
        torch.testing.assert_close(copy(x), model(x))
