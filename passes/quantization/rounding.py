"""Rounding the weights of layers to given scales: to the nearest, or with the data that the layers read in mind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format
from graphopt.ops.quantization.arithmetic import spread
from graphopt.passes.quantization.gptq import gptq
from graphopt.passes.weight_pruning.layers import Layer, Reader
from graphopt.passes.weight_pruning.moments import Moments, measure


class GptqRounding:
    """Rounds weights by GPTQ, from the second moments of what each layer reads.

    notes: which weights were rounded to the nearest after all, and why.
    """

    def __init__(self, graph: Graph, nodes: Sequence[Node], sets: Sequence[Sequence[Any]]) -> None:
        self.notes: list[str] = []
        self._layers: dict[Value, Layer] = {}
        readers: dict[Value, list[Node]] = {}
        for node in nodes:
            readers.setdefault(_weight(node), []).append(node)
        for weight, using in readers.items():
            sources = tuple(Reader(node, node.operands[_source(node)]) for node in using)
            self._layers[weight] = Layer(weight, _kind(using[0]), _groups(using[0]), sources)
        moments = measure(graph, list(self._layers.values()), sets, gram=True)
        self._moments: dict[Value, Moments] = {layer.weight: found for layer, found in moments.items()}

    def __call__(
        self,
        weight: Value,
        scales: torch.Tensor,
        axis: int | None,
        format_: Format,
        block_size: int = 0,
        zeros: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Return the integers in the weight's shape; None where the data does not suffice."""
        layer, moment = self._layers[weight], self._moments[weight]
        columns = layer.matrix_shape[2]
        if moment.count < columns:
            few = f"{moment.count} inputs are fewer than its {columns} columns"
            self.notes.append(f"{layer.name}: rounded to the nearest, for {few}")
            return None
        assert moment.gram is not None
        tensor = layer.tensor
        steps, zero = (
            layer.to_matrices(spread(x, tensor.shape, axis, block_size).expand(tensor.shape))
            for x in (scales, torch.zeros_like(scales) if zeros is None else zeros)
        )
        matrices = layer.to_matrices(tensor)
        try:
            rounded = [gptq(w, g, s, format_, z) for w, g, s, z in zip(matrices, moment.gram, steps, zero)]
        except GraphOptError as error:
            self.notes.append(f"{layer.name}: rounded to the nearest: {error}")
            return None
        return layer.from_matrices(torch.stack(rounded)).to(format_.storage)


def _kind(node: Node) -> str:
    if node.op.base.startswith("aten.conv"):
        return "conv"
    return "linear" if node.name == "aten.linear" else "product"


def _groups(node: Node) -> int:
    return int(node.attr("groups")) if _kind(node) == "conv" else 1


def _source(node: Node) -> int:
    return 1 if node.name == "aten.addmm" else 0


def _weight(node: Node) -> Value:
    weight = node.operands[_source(node) + 1]
    assert weight is not None
    return weight
