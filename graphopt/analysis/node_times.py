"""How long nodes take: as measured on this machine's CPU, by roofline on devices that are described."""

from __future__ import annotations

from functools import cached_property

from graphopt.analysis.calibration import CalibratedTimes, calibrated
from graphopt.analysis.cost import CostModel
from graphopt.analysis.roofline import Roofline
from graphopt.ir import Node
from graphopt.targets.device import Device


class NodeSeconds:
    """Seconds of nodes at the sizes of a cost model. This machine's CPU is measured at the first question about it."""

    def __init__(self, costs: CostModel) -> None:
        self._costs = costs
        self._described = Roofline(costs)

    @cached_property
    def _measured(self) -> CalibratedTimes:
        return calibrated(self._costs)

    def seconds(self, node: Node, device: Device) -> float:
        """Seconds of one run of a node on a device."""
        here = device.local and device.kind == "cpu"
        return self._measured.seconds(node, device) if here else self._described.seconds(node, device)
