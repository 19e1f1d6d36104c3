"""What a graph costs: operations, bytes moved, parameters, and the peak of live memory.

Symbolic dims are evaluated at given sizes; a symbol without one takes the least size that its range allows (at
least 1), and is listed. An operator whose work is not known counts one operation for each element that it reads or
writes, and is listed too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from graphopt.analysis.flops import node_work
from graphopt.analysis.liveness import peak_memory
from graphopt.analysis.sizes import TypeSizes
from graphopt.ir import ConstantKind, Graph, Node, Trait, Value, walk


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What one node costs: multiply-adds, operations, bytes read and written, and whether the work is known."""

    macs: int
    flops: int
    read: int
    written: int
    known: bool = True

    @property
    def bytes(self) -> int:
        """Bytes moved."""
        return self.read + self.written


NOTHING = NodeCost(0, 0, 0, 0)


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs.

    parameters: elements of the stored parameters. constant_bytes: size of all stored tensors.
    bytes: what the nodes read and write in all. peak_bytes: the most that inputs and intermediate values take at once.
    unknown: operators whose work was estimated, with their counts. assumed: sizes taken for unbound symbols.
    """

    nodes: int
    parameters: int
    constant_bytes: int
    macs: int
    flops: int
    bytes: int
    peak_bytes: int = 0
    unknown: Mapping[str, int] = field(default_factory=dict)
    assumed: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class CostModel:
    """Costs of nodes and graphs at given sizes. Nodes of equal operator, types and attributes are computed once.

    >>> from graphopt.ops import parse
    >>> g = parse('''input %x: f32[N, 16]
    ... parameter %w: f32[8, 16]
    ... %y = aten.linear(%x, %w)
    ... %z = aten.relu(%y)
    ... return %z''')
    >>> cost = CostModel({"N": 4}).graph(g)
    >>> cost.macs, cost.flops, cost.parameters, cost.peak_bytes
    (512, 1056, 128, 384)
    """

    def __init__(self, bindings: Mapping[str, int] | None = None) -> None:
        self.sizes = TypeSizes(bindings)
        self._memo: dict[tuple[Any, ...], NodeCost] = {}

    def node(self, node: Node) -> NodeCost:
        """Return the cost of one node (of its regions too, each run once)."""
        return self._compute(node) if node.regions else self._known(node, self._types(node))

    def graph(self, graph: Graph, *, peak: bool = True) -> GraphCost:
        """Return the cost of a graph. `peak=False` leaves the peak of memory out."""
        seen = {self.sizes.number(v.type) for v in graph.inputs}
        count = macs = flops = moved = 0
        unknown: dict[str, int] = {}
        for node in walk(graph):
            types = self._types(node)
            cost = NOTHING if node.regions else self._known(node, types)
            count += 1
            macs += cost.macs
            flops += cost.flops
            moved += cost.read + cost.written
            seen.update(types)
            if not cost.known:
                unknown[node.op.name] = unknown.get(node.op.name, 0) + 1
        constants = list(_constants(graph))
        return GraphCost(
            nodes=count,
            parameters=sum(map(_parameters, constants)),
            constant_bytes=sum(self.sizes.bytes(v.type) for v in constants),
            macs=macs,
            flops=flops,
            bytes=moved,
            peak_bytes=peak_memory(graph, self.sizes) if peak else 0,
            unknown=unknown,
            assumed=self.sizes.assumed_in(seen),
        )

    def _types(self, node: Node) -> tuple[int, ...]:
        """What stands for the types of a node: numbers, operands first."""
        number = self.sizes.number
        operands = [number(None if v is None else v.type) for v in node._operands]
        return (*operands, *[number(r.type) for r in node.results])

    def _known(self, node: Node, types: tuple[int, ...]) -> NodeCost:
        key = (node.op, node.attributes, types)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._compute(node)
        return found

    def _compute(self, node: Node) -> NodeCost:
        if Trait.VIEW in node.op.traits:
            # `reshape` and `contiguous` may copy, but whether they do is up to the engine.
            return NOTHING
        if node.regions:
            inner = [self.node(n) for region in node.regions for n in region]
            return NodeCost(
                sum(c.macs for c in inner),
                sum(c.flops for c in inner),
                sum(c.read for c in inner),
                sum(c.written for c in inner),
                all(c.known for c in inner),
            )
        size = self.sizes.bytes
        written, read = sum(size(r.type) for r in node.results), sum(size(v.type) for v in node.inputs)
        work, known = node_work(node, self.sizes.bindings)
        return NodeCost(work.macs, work.flops, read, written, known)


def graph_cost(graph: Graph, bindings: Mapping[str, int] | None = None) -> GraphCost:
    """Return the cost of a graph with its symbols at the given sizes."""
    return CostModel(bindings).graph(graph)


def _constants(graph: Graph) -> Iterable[Value]:
    yield from graph.constants.values()
    for node in walk(graph):
        for region in node.regions:
            yield from region.constants.values()


def _parameters(value: Value) -> int:
    constant = value.constant
    return constant.tensor.numel() if constant is not None and constant.kind is ConstantKind.PARAMETER else 0
