"""What an assignment does to a graph: copies right behind the producers, weights on the devices that read them."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ir.types import on_device
from graphopt.ops import get_op
from graphopt.ops.copy import COPY
from graphopt.passes.partitioning.from_graph import GraphProblem
from graphopt.passes.partitioning.problem import HOME, Ints
from graphopt.passmanager import PassContext
from graphopt.rewrite import Rewriter
from graphopt.targets import Target


def remove_copies(graph: Graph, rewriter: Rewriter) -> None:
    """Take all copies between devices out: as numbers they change nothing."""
    for node in graph.nodes:
        if node.op.name == COPY:
            assert node.operands[0] is not None
            rewriter.replace(node, [node.operands[0]])


class Placement:
    """Places the nodes of a graph, in order. Each value is copied at most once to each device."""

    def __init__(
        self, graph: Graph, built: GraphProblem, assignment: Ints, target: Target, context: PassContext
    ) -> None:
        self.graph, self.built = graph, built
        self._where = {node: int(device) for node, device in zip(built.nodes, assignment)} | {graph.terminator: HOME}
        self.rewriter = Rewriter(graph, context.listeners)
        self.names = [device.name for device in target.devices]
        self._there: dict[tuple[Value, int], Value] = {}

    def apply(self) -> Rewriter:
        """Place everything; return the rewriter that did it."""
        graph, first = self.graph, next(iter(self.graph), self.graph.terminator)
        returned = graph.returned
        self._place_constants()
        stay = [value for value in self.built.values if value.producer is None]
        for value in stay:
            value.type = on_device(value.type, self.names[HOME])
        for value in stay:
            self._copy(value, HOME, first)
        for node in self.built.nodes:
            device = self._where[node]
            after = node._next or graph.terminator
            self._move_regions(node, self.names[device])
            operands = [None if v is None else self._there.get((v, device), v) for v in node.operands]
            self.rewriter.place(node, operands, self.names[device])
            for result in node.results:
                self._copy(result, device, after)
        for index, value in enumerate(returned):
            self.rewriter.set_operand(graph.terminator, index, self._there.get((value, HOME), value))
        return self.rewriter

    def _devices(self, value: Value) -> list[int]:
        """The devices that read a value, the caller's included."""
        return sorted({self._where[use.node] for use in value.uses})

    def _copy(self, value: Value, home: int, anchor: Node) -> None:
        """Copy a value to each other device that reads it, before `anchor`."""
        if not isinstance(value.type, TensorType):
            return
        for device in self._devices(value):
            if device != home:
                with self.rewriter.at(anchor, "partition"):
                    copied = self.rewriter.create(get_op(COPY), value, self.names[device], name=value.name)
                self._there[value, device] = copied.result

    def _place_constants(self) -> None:
        """A constant is stored on each device that reads it; where there are several, the first keeps its names."""
        for value in self.built.constants:
            first, *others = self._devices(value)
            value.type = on_device(value.type, self.names[first])
            assert value.constant is not None and isinstance(value.type, TensorType)
            for device in others:
                self._there[value, device] = self.rewriter.constant(
                    value.constant.tensor, value.name, device=self.names[device], dtype=value.type.dtype
                )

    def _move_regions(self, node: Node, device: str) -> None:
        for region in node.regions:
            move_graph(region, device)


def move_graph(graph: Graph, device: str) -> None:
    """Let all of a region be on one device."""
    values: Sequence[Value] = [*graph.inputs, *graph.constants.values(), *[r for node in graph for r in node.results]]
    for value in values:
        value.type = on_device(value.type, device)
    for node in graph:
        if node.attributes.get("device") is not None:
            node.attributes = node.attributes.updated(device=device)
        for region in node.regions:
            move_graph(region, device)
