"""Rounding the weights of layers to given scales with the data that the layers read in mind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.analysis import Interpreter
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format
from graphopt.ops.quantization.arithmetic import spread
from graphopt.passes.quantization.gptq import gptq
from graphopt.passes.weight_pruning.layers import Layer, Reader
from graphopt.passes.weight_pruning.moments import Moments, measure


@dataclass(frozen=True)
class Lattice:
    """What the numbers of a weight may become, (q − zero) · scale.

    scales, zeros: of each number, [groups, rows, columns]. format_: of the integers q.
    """

    scales: torch.Tensor
    zeros: torch.Tensor
    format_: Format

    def nearest(self, matrices: torch.Tensor) -> torch.Tensor:
        """The integers next to given numbers."""
        return ((matrices / self.scales).round() + self.zeros).clamp(self.format_.low, self.format_.high)

    def numbers(self, integers: torch.Tensor) -> torch.Tensor:
        """What integers stand for."""
        return (integers - self.zeros) * self.scales


class Rounding(ABC):
    """Rounds the weights of layers, each seen as matrices.

    notes: which weights were rounded to the nearest after all, and why.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.notes: list[str] = []
        self.layers: dict[Value, Layer] = {}
        readers: dict[Value, list[Node]] = {}
        for node in nodes:
            readers.setdefault(_weight(node), []).append(node)
        for weight, using in readers.items():
            sources = tuple(Reader(node, node.operands[source_index(node)]) for node in using)
            self.layers[weight] = Layer(weight, _kind(using[0]), _groups(using[0]), sources)

    def __call__(
        self,
        weight: Value,
        scales: torch.Tensor,
        axis: int | None,
        format_: Format,
        block_size: int = 0,
        zeros: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Return the integers in the weight's shape; None to have them rounded to the nearest."""
        layer = self.layers[weight]
        tensor = layer.tensor.float()
        steps, zero = (
            layer.to_matrices(spread(x, tensor.shape, axis, block_size).expand(tensor.shape)).float()
            for x in (scales, torch.zeros_like(scales) if zeros is None else zeros)
        )
        try:
            rounded = self.rounded(layer, layer.to_matrices(tensor), Lattice(steps, zero, format_))
        except GraphOptError as error:
            self.notes.append(f"{layer.name}: rounded to the nearest: {error}")
            return None
        return layer.from_matrices(rounded).to(format_.storage)

    @abstractmethod
    def rounded(self, layer: Layer, matrices: torch.Tensor, lattice: Lattice) -> torch.Tensor:
        """Return the integers, [groups, rows, columns].

        Raises:
            GraphOptError: the data does not suffice, or the nearest are no worse; the message says which.
        """


class GptqRounding(Rounding):
    """Rounds weights by GPTQ, from the second moments of what each layer reads."""

    def __init__(self, graph: Graph, nodes: Sequence[Node], sets: Sequence[Sequence[Any]]) -> None:
        super().__init__(nodes)
        moments = measure(graph, list(self.layers.values()), sets, gram=True)
        self._moments: dict[Value, Moments] = {layer.weight: found for layer, found in moments.items()}

    def rounded(self, layer: Layer, matrices: torch.Tensor, lattice: Lattice) -> torch.Tensor:
        """By the Hessian of the layer's own output."""
        moment, columns = self._moments[layer.weight], layer.matrix_shape[2]
        if moment.count < columns:
            raise GraphOptError(f"{moment.count} inputs are fewer than its {columns} columns")
        assert moment.gram is not None
        found = zip(matrices, moment.gram, lattice.scales, lattice.zeros)
        return torch.stack([gptq(w, g, s, lattice.format_, z) for w, g, s, z in found])


class ModelGptqRounding(Rounding):
    """Rounds weights and embedding tables by GPTQ, so that the outputs of the model change least.

    What a row's errors e do to a random sum vᵀ y of the outputs is eᵀ g, g = ∂ vᵀ y / ∂ W of that row; so in the mean
    over signs v and rows their squares are eᵀ E[g gᵀ] e, which takes the place of the moments of what a layer reads.
    """

    def __init__(
        self, graph: Graph, nodes: Sequence[Node], tables: Sequence[Value], sets: Sequence[Sequence[Any]]
    ) -> None:
        super().__init__(nodes)
        for table in tables:
            self.layers[table] = Layer(table, "linear", 1, ())
        self._moments = output_moments(graph, list(self.layers.values()), sets)

    def rounded(self, layer: Layer, matrices: torch.Tensor, lattice: Lattice) -> torch.Tensor:
        """By the Hessian of the model's outputs."""
        moments = self._moments[layer.weight]
        if not bool((moments.diagonal(dim1=1, dim2=2) > 0).any()):
            raise GraphOptError("no output depends on it")
        found = zip(matrices, moments, lattice.scales, lattice.zeros)
        return torch.stack([gptq(w, g, s, lattice.format_, z) for w, g, s, z in found])


def output_moments(graph: Graph, layers: Sequence[Layer], sets: Sequence[Sequence[Any]]) -> dict[Value, torch.Tensor]:
    """Return Σ G^T G, [groups, columns, columns], G the derivative of a random sum of the outputs of each set.

    Raises:
        GraphOptError: a derivative is not finite.
    """
    interpreter = Interpreter(graph, differentiate=[layer.weight for layer in layers])
    leaves = [interpreter.leaf(layer.weight) for layer in layers]
    generator = torch.Generator().manual_seed(0)
    found: dict[Value, torch.Tensor] = {}
    for inputs in sets:
        outputs = [y for y in interpreter.run(*inputs) if isinstance(y, torch.Tensor) and y.requires_grad]
        if not outputs:
            raise GraphOptError("no output is differentiable by a weight; objective=layer needs no derivatives")
        signs = [torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1 for y in outputs]
        for layer, gradient in zip(layers, torch.autograd.grad(outputs, leaves, signs, allow_unused=True)):
            groups, _, columns = layer.matrix_shape
            moments = found.setdefault(layer.weight, torch.zeros(groups, columns, columns))
            if gradient is None:
                continue
            if not bool(gradient.isfinite().all()):
                raise GraphOptError(f"{layer.name}: a derivative by it is not finite on the calibration data")
            matrices = layer.to_matrices(gradient.float())
            if groups == 1 and not layer.readers:  # of a table, most rows are not looked up
                matrices = matrices[:, matrices[0].any(1)]
            moments.baddbmm_(matrices.transpose(1, 2), matrices)
    return found


def source_index(node: Node) -> int:
    """Which operand of a layer its columns read."""
    return 1 if node.name == "aten.addmm" else 0


def _kind(node: Node) -> str:
    if node.op.base.startswith("aten.conv"):
        return "conv"
    return "linear" if node.name == "aten.linear" else "product"


def _groups(node: Node) -> int:
    return int(node.attr("groups")) if _kind(node) == "conv" else 1


def _weight(node: Node) -> Value:
    weight = node.operands[source_index(node) + 1]
    assert weight is not None
    return weight
