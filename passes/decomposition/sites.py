"""The layers of a graph that can be decomposed, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch

from graphopt.analysis import CostModel
from graphopt.ir import Graph, Node, TensorType, Value
from graphopt.ir.dims import evaluate
from graphopt.passes.decomposition.factors import Factor
from graphopt.passes.decomposition.problem import Shape
from graphopt.passes.weight_pruning.layers import Layer, Reader, find_layers


@dataclass(frozen=True)
class Geometry:
    """What a convolution does along each spatial axis."""

    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    output_padding: tuple[int, ...] = ()


@dataclass(frozen=True)
class Work:
    """What a layer, or what stands for it, costs. macs: in a run, over all its nodes."""

    macs: int
    parameters: int


@dataclass(frozen=True)
class Site:
    """A layer that can be decomposed.

    layer: its weight and what reads that. positions: how often its weights are used in a run. shrinking: for each
    spatial axis the input's size over the output's.
    """

    layer: Layer
    shape: Shape
    geometry: Geometry
    positions: int
    shrinking: tuple[float, ...]

    @property
    def name(self) -> str:
        """The weight's name in the model."""
        return self.layer.name

    @property
    def nodes(self) -> list[Node]:
        """The nodes that read the weight."""
        return [reader.node for reader in self.layer.readers]

    @property
    def work(self) -> Work:
        """What it costs as it is."""
        return Work(0 if self.shape.kind == "embedding" else self.positions * self.shape.numel, self.shape.numel)

    def work_of(self, chain: Sequence[Factor]) -> Work:
        """What the chain of one group costs, times the groups."""
        macs = weights = 0.0
        left = list(self.shrinking)
        for index, factor in enumerate(chain):
            if not factor.transposed:
                left = [1.0 if axis in factor.axes else ratio for axis, ratio in enumerate(left)]
            scale = 1.0 if self.shape.kind == "transposed" else prod(left)
            if self.shape.kind != "embedding" or index:
                macs += factor.weight.numel() * scale
            weights += factor.weight.numel()
        groups = self.shape.groups
        return Work(round(groups * self.positions * macs), round(groups * weights))

    def weights(self) -> torch.Tensor:
        """The weight of each group as problems take it."""
        tensor = self.layer.tensor
        if self.shape.kind == "conv":
            return tensor.reshape(self.shape.groups, self.shape.out, self.shape.in_, *self.shape.kernel)
        if self.shape.kind == "embedding":
            return tensor.t().unsqueeze(0)
        return self.layer.to_matrices(tensor)


def find_sites(graph: Graph, bindings: Mapping[str, int], embeddings: bool) -> tuple[list[Site], dict[str, str]]:
    """The layers that can be decomposed, and by name why others cannot. bindings: the sizes at which costs count."""
    sites: list[Site] = []
    left: dict[str, str] = {}
    cost = CostModel(bindings)
    layers = find_layers(graph, folded=True)
    tables = _tables(graph, {layer.weight for layer in layers}) if embeddings else []
    for layer in (*layers, *tables):
        found = _site(layer, graph, cost)
        if isinstance(found, Site):
            sites.append(found)
        else:
            left[layer.name] = found
    return sites, left


def _tables(graph: Graph, others: set[Value]) -> list[Layer]:
    found: dict[Value, list[Reader]] = {}
    for node in graph:
        weight = node.operands[0] if node.name == "aten.embedding" else None
        if weight is not None and weight.constant is not None and weight not in others:
            found.setdefault(weight, []).append(Reader(node, None))
    return [Layer(weight, "embedding", 1, tuple(readers)) for weight, readers in found.items()]


def _site(layer: Layer, graph: Graph, cost: CostModel) -> Site | str:
    node = layer.readers[0].node
    reason = _why_not(layer, graph)
    if reason is not None:
        return reason
    geometry = _geometry(layer)
    if isinstance(geometry, str):
        return geometry
    if any(_geometry_of(other) != _geometry_of(node) for other in [reader.node for reader in layer.readers]):
        return "it is used by convolutions of different strides, paddings or dilations"
    numel = max(layer.tensor.numel(), 1)
    macs = sum(cost.node(reader.node).macs for reader in layer.readers)
    positions = max(round(macs / numel), 1)
    if layer.kind == "embedding":
        positions = sum(_numel(reader.node.result, cost) for reader in layer.readers) // layer.shape[1]
    return Site(layer, _shape(layer), geometry, positions, _shrinking(layer, node, cost))


def _why_not(layer: Layer, graph: Graph) -> str | None:
    if layer.kind == "recurrent":
        return "it is inside a recurrent operator"
    if layer.mask is not None:
        return "it has a mask; fold-masks makes that part of it"
    if set(layer.weight.users) != {reader.node for reader in layer.readers}:
        return "something else reads its weight"
    if layer.kind == "product" and len(layer.shape) == 3:
        return "it is a batch of matrices"
    for reader in layer.readers:
        node = reader.node
        if node.op.base == "aten.addmm":
            bias = node.operands[0]
            if node.attr("alpha") != 1 or node.attr("beta") != 1 or bias is None or len(bias.shape) != 1:
                return "what is added to the product is no bias; fuse-linear brings it into form"
        if node.op.base == "aten.embedding" and (node.attr("scale_grad_by_freq") or node.attr("sparse")):
            return "its gradients are sparse, or scaled by frequency"
        if reader.source is not None and reader.source.constant is not None:
            return "it reads a stored tensor; fold-constants computes it once and for all"
    tensor = layer.tensor
    if not tensor.numel():
        return "it has no weights"
    return None if bool(tensor.isfinite().all()) else "its weight is not finite"


def _shape(layer: Layer) -> Shape:
    sizes, groups = layer.shape, layer.groups
    if layer.kind == "conv":
        return Shape("conv", sizes[0] // groups, sizes[1], sizes[2:], groups)
    if layer.kind == "transposed":
        return Shape("transposed", sizes[1], sizes[0] // groups, sizes[2:], groups)
    if layer.kind == "embedding":
        return Shape("embedding", sizes[1], sizes[0])
    _, rows, columns = layer.matrix_shape
    return Shape("linear", rows, columns)


def _geometry_of(node: Node) -> list[object]:
    return [node.attributes.get(name) for name in ("stride", "padding", "dilation", "output_padding")]


def _geometry(layer: Layer) -> Geometry | str:
    node, rank = layer.readers[0].node, len(layer.shape) - 2
    if layer.kind not in ("conv", "transposed"):
        return Geometry()
    if rank not in (1, 2, 3):
        return f"it is a convolution over {rank} axes"
    stride, dilation = (_each(node.attr(name), rank) for name in ("stride", "dilation"))
    padding = node.attr("padding")
    if isinstance(padding, str):
        totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, layer.shape[2:])]
        if any(total % 2 for total in totals):
            return "it pads one side more than the other"
        padding = tuple(total // 2 for total in totals)
    extra = _each(node.attributes.get("output_padding", 0), rank)
    return Geometry(stride, _each(padding, rank), dilation, extra)


def _shrinking(layer: Layer, node: Node, cost: CostModel) -> tuple[float, ...]:
    rank = len(layer.shape) - 2
    if layer.kind != "conv" or not rank:
        return (1.0,) * rank
    source = node.operands[0]
    assert source is not None and isinstance(source.type, TensorType)
    return tuple(a / max(b, 1) for a, b in zip(*(_sizes(v, cost)[-rank:] for v in (source, node.result))))


def _sizes(value: Value, cost: CostModel) -> list[int]:
    assert isinstance(value.type, TensorType)
    cost.sizes.number(value.type)  # sizes are assumed for unbound symbols
    return [d if isinstance(d, int) else evaluate(d, cost.sizes.bindings) for d in value.type.shape]


def _numel(value: Value, cost: CostModel) -> int:
    return prod(_sizes(value, cost))


def _each(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * rank if len(values) == 1 else values
