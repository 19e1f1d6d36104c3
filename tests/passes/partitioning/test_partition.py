"""The pass on graphs: what it writes, on text; that numbers and peaks hold, on real models; what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import graphopt
from graphopt import PassContext
from graphopt.analysis import run_graph
from graphopt.analysis.memory_meter import MemoryMeter
from graphopt.analysis.placement import copies_of, device_peaks, node_device, segments, type_device
from graphopt.calling import CallingConvention
from graphopt.errors import GraphOptError, TargetError, UnknownNameError
from graphopt.ir import Graph, TensorType, verify
from graphopt.passes.partition import Partition
from graphopt.passes.partitioning.report import PartitionReport
from graphopt.passmanager import get_pass
from graphopt.targets import Capability, Device, Target
from graphopt.testing import check_pass
from tests.passes.partitioning.targets import CPU, GPUS, described
from tests.zoo import MODELS

HEAVY = """
input %x: f32[64, 256]
parameter %w: f32[256, 256]
%a = relu(%x)
%b = linear(%a, %w)
%c = relu(%b)
%d = add.Tensor(%c, %a)
return %d, %a
"""


def split(graph: Graph, pass_: Partition, context: PassContext | None = None) -> tuple[Graph, PartitionReport]:
    copy = graph.clone()
    result = pass_.run(copy, context or PassContext())
    verify(copy)
    assert result.details is not None
    return copy, result.details


def test_text_copies_once_and_places_types() -> None:
    graph, report = split(graphopt.parse(HEAVY), Partition(described(1), pin={"aten.[ra]*": "cpu"}))
    assert [(n.name, node_device(n)) for n in graph] == [
        ("aten.relu", "cpu"),
        ("graphopt.copy", "gpu:0"),
        ("aten.linear", "gpu:0"),
        ("graphopt.copy", "cpu"),
        ("aten.relu", "cpu"),
        ("aten.add.Tensor", "cpu"),
    ]
    assert type_device(graph.constants["w"].type) == "gpu:0"
    assert (report.copies, report.segments, report.gap) == (2, 3, 0.0)
    assert "f32[64, 256]@gpu:0 = graphopt.copy(" in str(graph)


def test_a_second_run_starts_from_the_graph_without_copies() -> None:
    once, _ = split(graphopt.parse(HEAVY), Partition(described(1), pin={"aten.[ra]*": "cpu"}))
    again, report = split(once, Partition(described(1), pin={"*": "cpu"}))
    assert report.copies == 0 and {node_device(node) for node in again} == {"cpu"}


LATE = """
input %x: f32[64, 1024]
parameter %w: f32[1024, 1024]
parameter %v: f32[1024, 1024]
%a = linear(%x, %w)
%b = neg(%a)
%c = neg(%x)
%d = linear(%c, %v)
%e = add.Tensor(%b, %d)
return %e
"""


@pytest.mark.parametrize(
    "text, moves", [(LATE, True), (LATE.replace("neg(%a)", "dropout(%a) {p=0.5, train=true}"), False)]
)
def test_latency_puts_nodes_into_an_order_that_overlaps(text: str, moves: bool) -> None:
    """%c can run while the device of %b would wait for %a; but not where %b draws random numbers."""
    pin = {"aten.linear": "gpu:0", "aten.[nad]*": "cpu"}
    graph = graphopt.parse(text)
    placed, report = split(graph, Partition(described(1), "latency", pin=pin))
    assert report.gap == 0.0
    order = [node.results[0].name for node in placed if node.op.name != "graphopt.copy"]
    assert (order != ["a", "b", "c", "d", "e"]) == moves
    if moves:
        inputs = [torch.randn(64, 1024)]
        (before,), (after,) = run_graph(graph, *inputs), run_graph(placed, *inputs)
        assert torch.equal(before, after)


def test_creation_follows_the_device() -> None:
    graph = graphopt.parse("input %x: f32[4]\n%r = arange() {end=4}\n%y = add.Tensor(%x, %r)\nreturn %y")
    placed, _ = split(graph, Partition(described(1), pin={"*": "gpu:0"}))
    assert placed.nodes[1].attr("device") == "gpu:0" or placed.nodes[0].attr("device") == "gpu:0"
    (before,), (after,) = run_graph(graph, torch.ones(4)), run_graph(placed, torch.ones(4))
    assert torch.equal(before, after)


def test_one_device_is_nothing_to_split() -> None:
    result = get_pass("partition").run(graphopt.parse(HEAVY), PassContext(target="cpu"))
    assert not result.changed and "nothing to split" in result.notes[0]


def test_options_in_pipeline_text(tmp_path: Any) -> None:
    from graphopt.passmanager import as_pipeline

    (pass_,) = as_pipeline('partition{target="box.toml",objective=latency,memory={"gpu:0"=1000}}').leaves()
    assert pass_ == Partition("box.toml", "latency", {"gpu:0": 1000})


@pytest.mark.parametrize("objective", ["serial", "latency", "throughput"])
def test_random_graphs_keep_their_word(objective: Any) -> None:
    check_pass(Partition(described(2), objective, time_limit=1.0), examples=5, linear=False)


REAL = ("lenet", "resnet8", "hf-bert", "hf-mobilenet-v2", "transformer-encoder", "densenet", "cond")


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("gpus", [1, 2])
def test_real_models_compute_the_same(name: str, gpus: int) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = graphopt.trace(entry.build(), args, kwargs)
    inputs = CallingConvention(graph).flatten(args, kwargs)
    expected = run_graph(graph, *inputs)
    whole = max(device_peaks(graph, {}).values())
    target = described(gpus)
    crossed = 0
    for share in (0.95, 0.7):
        limits = {device.name: int(whole * share) for device in target.devices}
        try:
            placed, report = split(graph, Partition(target, memory=limits, time_limit=1.0))
        except TargetError as error:
            assert "would do" in str(error) or "is needed" in str(error)
            continue
        for before, after in zip(expected, run_graph(placed, *inputs)):
            assert torch.equal(before, after)
        check_placed(placed)
        measured = MemoryMeter(placed).run(*inputs)
        for device in report.devices:
            assert device.peak_bytes <= limits[device.name]
            assert measured.get(device.name, 0) == pytest.approx(device.peak_bytes, rel=0.1, abs=256)
        crossed = max(crossed, report.copies)
    assert crossed >= (2 if name != "cond" else 0)


@pytest.mark.parametrize(("crossings", "name"), [(2, "lenet"), (4, "hf-bert"), (8, "hf-mobilenet-v2")])
def test_memory_forces_crossings(crossings: int, name: str) -> None:
    """Nodes by turns on two devices, as far as memory allows: at least so many edges cross."""
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = graphopt.trace(entry.build(), args, kwargs)
    inputs = CallingConvention(graph).flatten(args, kwargs)
    target = described(1)
    heavy = "aten.conv2d" if name != "hf-bert" else "aten.linear"
    rest = sorted({n.name for n in graph} - {heavy})
    pin = {heavy: "gpu:0", next(n for n in rest if "norm" in n or "relu" in n): "cpu"}
    peak = split(graph, Partition(target, pin=pin, time_limit=2.0))[1].devices
    limits = {device.name: device.peak_bytes for device in peak}
    placed, report = split(graph, Partition(target, pin=pin, memory=limits, time_limit=2.0))
    assert report.copies >= crossings
    measured = MemoryMeter(placed).run(*inputs)
    for device in report.devices:
        assert device.peak_bytes <= limits[device.name]
        assert measured[device.name] == pytest.approx(device.peak_bytes, rel=0.1)
    for before, after in zip(run_graph(graph, *inputs), run_graph(placed, *inputs)):
        assert torch.equal(before, after)


def check_placed(graph: Graph) -> None:
    """Operands are where their node runs; each value is copied once to a device; segments are convex, in order."""
    copied = [(node.operands[0], node.attr("device")) for node in copies_of(graph)]
    assert len(copied) == len(set(copied))
    for node in graph:
        if node.name != "graphopt.copy":
            tensors = [v for v in (*node.inputs, *node.results) if isinstance(v.type, TensorType)]
            assert len({type_device(v.type) for v in tensors}) <= 1
    assert {type_device(v.type) for v in graph.returned} <= {"cpu", None}
    place = {node: index for index, segment in enumerate(segments(graph)) for node in segment.nodes}
    assert len(place) == len(graph)
    for node in graph:
        for operand in node.inputs:
            assert operand.producer is None or place[operand.producer] <= place[node]


def test_capabilities_decide_where_nodes_run() -> None:
    target = replace(described(1), capabilities=(Capability("aten.linear", ("gpu:0",)),))
    graph, _ = split(graphopt.parse(HEAVY), Partition(target))
    assert {n.name for n in graph if node_device(n) == "gpu:0"} <= {"aten.linear", "graphopt.copy"}


def test_memory_that_no_split_meets_says_what_would_do() -> None:
    pass_ = Partition(described(1), memory={"cpu": 100_000, "gpu:0": 100_000})
    with pytest.raises(TargetError, match=r"no split of the model fits into cpu .*; \d\S* times as much, .*would do"):
        pass_.run(graphopt.parse(HEAVY), PassContext())


@pytest.mark.parametrize(
    ("pass_", "error", "message"),
    [
        (Partition(described(1), memory={"tpu:0": 1}), TargetError, "has no device 'tpu:0'; it has 'cpu', 'gpu:0'"),
        (Partition(described(1), pin={"*": "tpu:0"}), TargetError, "has no device 'tpu:0'"),
        (Partition(described(1), pin={"aten.gelu": "cpu"}), UnknownNameError, "no node is called so"),
        (Partition(described(1), memory={"cpu": 0}), GraphOptError, "must be a positive number of bytes, got 0"),
        (Partition(Target("t", devices=(CPU, GPUS[0]))), TargetError, "no link from 'cpu' to 'gpu:0'; add one"),
        (Partition("fx", memory={"cpu": 1}), TargetError, "describes no devices"),
        (Partition("nothing"), UnknownNameError, "Unknown target 'nothing'"),
        (
            Partition(replace(described(1), capabilities=(Capability("aten.relu"),))),
            TargetError,
            r"no device of target '2-devices' \(cpu, gpu:0\) runs aten.linear in f32",
        ),
    ],
)
def test_what_cannot_be(pass_: Partition, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pass_.run(graphopt.parse(HEAVY), PassContext())


def test_energy_limits_work() -> None:
    frugal = Device("gpu:0", "cuda", peak={"f32": 4e11}, bandwidth=1e11, power=10.0, energy=1e-9)
    target = replace(described(1), devices=(CPU, frugal))
    graph, _ = split(graphopt.parse(HEAVY), Partition(target))
    assert {node_device(node) for node in graph} == {"cpu"}
