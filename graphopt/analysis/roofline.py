"""Seconds of a node on a device that is described, not measured.

t = max(FLOPs / peak, bytes / bandwidth) + launch          a view takes none
"""

from __future__ import annotations

from typing import Protocol

from graphopt.analysis.cost import CostModel
from graphopt.ir import Node, TensorType, Trait
from graphopt.targets.device import Device


class NodeTimes(Protocol):
    """What tells how long nodes take."""

    def seconds(self, node: Node, device: Device) -> float:
        """Seconds of one run of a node on a device."""
        ...


class Roofline:
    """The roofline of each device, at the sizes of a cost model.

    >>> from graphopt.ops import parse
    >>> g = parse('''input %x: f32[1000, 1000]
    ... parameter %w: f32[1000, 1000]
    ... %y = aten.linear(%x, %w)
    ... return %y''')
    >>> gpu = Device("gpu:0", "cuda", peak={"f32": 2e12}, bandwidth=1e12, launch=5e-6)
    >>> round(Roofline(CostModel()).seconds(g.nodes[0], gpu) * 1e3, 3)
    1.005
    """

    def __init__(self, costs: CostModel) -> None:
        self.costs = costs

    def seconds(self, node: Node, device: Device) -> float:
        """Seconds of one run of a node on a device."""
        if Trait.VIEW in node.op.traits:
            return 0.0
        cost = self.costs.node(node)
        return max(cost.flops / device.rate(node_dtype(node)), cost.bytes / device.bandwidth) + device.launch


def node_dtype(node: Node) -> str:
    """The dtype that a node computes in: that of its first result, else of its first operand."""
    values = (*node.results, *node.inputs)
    return next((v.type.dtype.value for v in values if isinstance(v.type, TensorType)), "f32")
