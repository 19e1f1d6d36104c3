"""Peaks as predicted against what PyTorch's allocator counts in a run: whole models, and models in pieces."""

from __future__ import annotations

import pytest
import torch

import graphopt
from graphopt import PassContext
from graphopt.analysis.memory_meter import MemoryMeter
from graphopt.analysis.placement import device_peaks
from graphopt.calling import CallingConvention
from graphopt.passes.partition import Partition
from tests.passes.partitioning.allocator import allocator_peaks
from tests.passes.partitioning.targets import described
from tests.zoo import MODELS


def test_the_oracle_counts_what_is_there() -> None:
    graph = graphopt.parse("""
    input %x: f32[1000]
    %a = neg(%x)
    %b = relu(%a)
    %c = unsqueeze(%b) {dim=0}
    %d = add.Tensor(%c, %c)
    return %d""")
    at_ends, ever = allocator_peaks(graph, [torch.ones(1000)])
    assert at_ends["cpu"] == pytest.approx(8000, abs=200) and ever["cpu"] == pytest.approx(8000, abs=200)


@pytest.mark.parametrize(
    "name",
    [
        "lenet",
        "resnet8",
        "densenet",
        "unet",
        "hf-bert",
        "hf-gpt2",
        "hf-mobilenet-v2",
        "hf-vit",
        "hf-swin",
        "shufflenet",
    ],
)
def test_predicted_and_allocated_peaks_agree(name: str) -> None:
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = graphopt.trace(entry.build(), args, kwargs)
    inputs = CallingConvention(graph).flatten(args, kwargs)
    (predicted,) = device_peaks(graph, {}).values()
    (measured,) = allocator_peaks(graph, inputs)[0].values()
    assert predicted == pytest.approx(measured, rel=0.1)
    limits = {"cpu": int(predicted * 0.8), "gpu:0": int(predicted * 0.8)}
    placed = graph.clone()
    report = Partition(described(1), memory=limits, time_limit=1.0).run(placed, PassContext()).details
    assert report is not None
    at_ends, _ = allocator_peaks(placed, inputs)
    for device in report.devices:
        assert at_ends.get(device.name, 0) == pytest.approx(device.peak_bytes, rel=0.1, abs=1024)


def test_a_view_of_a_weight_takes_nothing_where_it_is_made() -> None:
    text = """
    input %x: f32[8, 64]
    parameter %w: f32[64, 64]
    %t = transpose.int(%w) {dim0=0, dim1=1}
    %y = mm(%x, %t)
    return %y"""
    graph = graphopt.parse(text)
    weight, rest = 64 * 64 * 4, 2 * 8 * 64 * 4
    assert device_peaks(graph, {}) == {"cpu": weight + rest}
    assert MemoryMeter(graph).run(torch.ones(8, 64)) == {"cpu": weight + rest}
    for pin, gpu in (
        ({"*": "gpu:0"}, weight + rest),
        ({"aten.transpose.int": "cpu", "aten.mm": "gpu:0"}, weight + rest),
    ):
        placed = graph.clone()
        report = Partition(described(1), pin=pin).run(placed, PassContext()).details
        assert report is not None and report.devices[1].peak_bytes == gpu
        assert MemoryMeter(placed).run(torch.ones(8, 64))["gpu:0"] == gpu
