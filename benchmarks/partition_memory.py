"""Peak memory as the partitioner predicts it, against what PyTorch's CPU allocator counts in a run.

Each model as a whole, and split over two described devices that hold 80 % of it each. The allocator's events are
replayed, each allocation on the device of the node that made it: once at the ends of nodes, which is what the
prediction is about, and once with what kernels take and give back meanwhile (weights in another layout, windows of
convolutions). The bar: predicted within 10 % of measured.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from common import parse_args, print_table, write_json
from graphopt import PassContext, trace
from graphopt.analysis.placement import device_peaks
from graphopt.calling import CallingConvention
from graphopt.errors import GraphOptError
from graphopt.passes.partition import Partition
from tests.passes.partitioning.allocator import allocator_peaks
from tests.passes.partitioning.targets import described
from tests.zoo import MODELS

BAR, FEW = 0.1, 4096
QUICK = ("lenet", "resnet8", "hf-bert", "hf-mobilenet-v2", "minilm")


def rows(name: str) -> list[list[Any]]:
    """Model, how it is split, device, predicted, at the ends of nodes, ever, predicted over measured."""
    entry = MODELS[name]
    args, kwargs = entry.inputs()
    graph = trace(entry.build(), args, kwargs)
    inputs = CallingConvention(graph).flatten(args, kwargs)
    whole = device_peaks(graph, {})
    found = [_rows(name, "whole", graph, inputs, whole)]
    placed = graph.clone()
    share = int(sum(whole.values()) * 0.8)
    try:
        report = Partition(described(1), memory={"cpu": share, "gpu:0": share}, time_limit=2.0).run(
            placed, PassContext()
        )
    except GraphOptError as error:
        print(f"{name} is not split: {error}")
    else:
        assert report.details is not None
        peaks = {device.name: device.peak_bytes for device in report.details.devices}
        found.append(_rows(name, "two devices", placed, inputs, peaks))
    return [row for group in found for row in group]


def _rows(name: str, how: str, graph: Any, inputs: list[Any], predicted: dict[str, int]) -> list[list[Any]]:
    at_ends, ever = allocator_peaks(graph, inputs)
    return [
        [name, how, device, count, at_ends.get(device, 0), ever.get(device, 0), count / max(at_ends.get(device, 0), 1)]
        for device, count in predicted.items()
        if count >= FEW
    ]


def main() -> None:
    options = parse_args(__doc__, ("--models", {"nargs": "*", "help": "only these"}))
    table: list[list[Any]] = []
    for name in options.models or (QUICK if options.quick else list(MODELS)):
        try:
            table += rows(name)
        except GraphOptError as error:
            print(f"{name} is left out: {error}")
    print_table(
        "Peak memory, bytes", ["model", "split", "device", "predicted", "measured", "with scratch", "ratio"], table
    )
    off = [abs(row[-1] - 1) for row in table]
    print(
        f"{len(off)} devices: median deviation {median(off):.2%}, largest {max(off):.1%}, "
        f"{sum(value <= BAR for value in off)} within {BAR:.0%}"
    )
    write_json(options.json, "partition_memory", {"rows": table})


if __name__ == "__main__":
    main()
