"""Two layers in a row with nothing between them, as a product of two matrices.

linear, linear              A: [out, middle], B: [middle, in]
convolution, then 1×1       A: [out, middle], B: [middle, kernel · in]
1×1, then convolution       A: [out · kernel, middle], B: [middle, in]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from graphopt.ir import Graph, Node, TensorType, Value

_CONVS = {"aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}


@dataclass(frozen=True)
class Pair:
    """first, second: the nodes. spatial: the number of spatial axes. outer: whether the second has the kernel."""

    first: Node
    second: Node
    spatial: int
    outer: bool

    @property
    def weights(self) -> tuple[Value, Value]:
        """B and A as they are stored."""
        found = self.first.operands[1], self.second.operands[1]
        assert found[0] is not None and found[1] is not None
        return found[0], found[1]

    @property
    def biases(self) -> tuple[Value | None, Value | None]:
        """Those of the first and the second."""
        return self.first.operands[2], self.second.operands[2]

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B and A in double precision, in their shapes."""
        one, two = (value.constant for value in self.weights)
        assert one is not None and two is not None
        return one.tensor.detach().double(), two.tensor.detach().double()

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B: [middle, columns], and A: [rows, middle]."""
        first, second = self.tensors
        if self.outer:
            return first.flatten(1), second.movedim(1, -1).flatten(0, -2)
        return first.flatten(1), second.flatten(1)

    def from_matrices(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inverse of `matrices`, for any number of middle channels."""
        one, two = self.tensors
        rank = len(first)
        stored = first.reshape(rank, *one.shape[1:])
        if self.outer:
            return stored, second.reshape(two.shape[0], *two.shape[2:], rank).movedim(-1, 1)
        return stored, second.reshape(two.shape[0], rank, *two.shape[2:])

    def bias_tensor(self) -> torch.Tensor | None:
        """The bias of both as one, A b₁ + b₂; None if there is none."""
        first, second = self.biases
        _, weight = self.tensors
        found = None if second is None else _numbers(second)
        if first is None:
            return found
        moved = weight.flatten(2).sum(2) @ _numbers(first) if weight.dim() > 2 else weight @ _numbers(first)
        return moved if found is None else moved + found


def _numbers(value: Value) -> torch.Tensor:
    assert value.constant is not None
    return value.constant.tensor.detach().double()


def pair_at(second: Node, graph: Graph) -> Pair | str:
    """The pair that ends at a node, or why there is none."""
    source = second.operands[0] if second.operands else None
    first = source.producer if source is not None else None
    if first is None or source is None or not (_is_layer(first) and _is_layer(second)):
        return "it does not follow a layer of its kind"
    if (first.op.base == "aten.linear") != (second.op.base == "aten.linear"):
        return "it does not follow a layer of its kind"
    if source.num_uses != 1:
        return f"what stands between has {source.num_uses - 1} other uses"
    stored = (*first.operands[1:3], *second.operands[1:3])
    if not all(value is None or _is_stored(value, graph) for value in stored):
        return "a weight or bias is computed, written to, or read by something else"
    spatial = _CONVS.get(second.op.base, 0)
    if not spatial:
        return Pair(first, second, 0, False)
    if first.attr("groups") != 1 or second.attr("groups") != 1:
        return "one of the convolutions has groups"
    if _is_pointwise(second):
        return Pair(first, second, spatial, False)
    if not _is_pointwise(first):
        return "both convolutions have a kernel, a stride or padding"
    if first.operands[2] is not None and not _is_unpadded(second):
        return "the bias of the first would meet the padding of the second"
    return Pair(first, second, spatial, True)


def pairs_in(graph: Graph, nodes: Sequence[Node] | None = None) -> list[Pair]:
    """Every pair of a graph, in order of the second layers."""
    found = [pair_at(node, graph) for node in (graph if nodes is None else nodes) if _is_layer(node)]
    return [pair for pair in found if isinstance(pair, Pair)]


def _is_layer(node: Node) -> bool:
    return node.op.base == "aten.linear" or node.op.base in _CONVS


def _is_stored(value: Value, graph: Graph) -> bool:
    type_ = value.type
    if value.constant is None or value.name in graph.mutations or value.num_uses != 1:
        return False
    return isinstance(type_, TensorType) and type_.dtype.is_floating and not value.constant.tensor.is_meta


def _is_pointwise(node: Node) -> bool:
    weight = node.operands[1]
    assert weight is not None
    return prod(int(size) for size in weight.shape[2:]) == 1 and _all(node, "stride", 1) and _is_unpadded(node)


def _is_unpadded(node: Node) -> bool:
    padding = node.attr("padding")
    return padding == "valid" if isinstance(padding, str) else _all(node, "padding", 0)


def _all(node: Node, name: str, number: int) -> bool:
    value = node.attr(name)
    return value == number if isinstance(value, int) else all(v == number for v in value)
