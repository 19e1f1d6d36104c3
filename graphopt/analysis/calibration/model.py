"""The times of this machine's CPU: samples that are kept between processes, and the curves through them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from graphopt.analysis.calibration.fit import Fit
from graphopt.analysis.calibration.micro import micro_samples
from graphopt.analysis.calibration.samples import Sample, measure_nodes, sample_of
from graphopt.analysis.cost import CostModel
from graphopt.ir import Graph, Node
from graphopt.targets.device import Device
from graphopt.targets.machine_cache import cache_folder, cached, keep

MOST = 400
"""Samples that are kept of an operator; the newest stay."""


class CalibratedTimes:
    """Seconds of nodes on this machine's CPU, at the sizes of a cost model."""

    def __init__(self, costs: CostModel, fit: Fit) -> None:
        self.costs, self.fit = costs, fit

    def seconds(self, node: Node, device: Device | None = None) -> float:
        """Seconds of one run of a node; of one that holds graphs, those of their nodes, each once."""
        if node.regions:
            return sum(self.seconds(inner) for region in node.regions for inner in region)
        return self.fit.seconds(sample_of(node, self.costs))


def calibrated(costs: CostModel) -> CalibratedTimes:
    """Return the times of this machine. The first process that asks measures small graphs, which takes some seconds."""
    return CalibratedTimes(costs, Fit(_samples()))


def calibrate(graph: Graph, inputs: Sequence[Any]) -> dict[Node, Sample]:
    """Measure the nodes of a graph on this machine, and keep what that says of their operators.

    inputs: flat, in graph order. Returns the sample of each node.
    """
    measured = measure_nodes(graph, inputs)
    by_key: dict[str, list[Sample]] = {}
    for sample in (*_samples(), *measured.values()):
        by_key.setdefault(sample.key, []).append(sample)
    kept = [sample for group in by_key.values() for sample in group[-MOST:]]
    keep(cache_folder() / f"{_name()}.json", _document(kept))
    return measured


def _samples() -> list[Sample]:
    document = cached(_name(), lambda: _document(micro_samples()))
    return [Sample(**row) for row in document["samples"]]


def _name() -> str:
    return f"operators-{torch.get_num_threads()}-threads"


def _document(samples: Iterable[Sample]) -> dict[str, Any]:
    return {"samples": [asdict(sample) for sample in samples]}
