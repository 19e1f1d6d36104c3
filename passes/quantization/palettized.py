"""Stored weights as matrices with a row for each output channel, and their palettes in a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import ConstantKind, DType, Node, TensorType, Value
from graphopt.passes.quantization.palettes import Palette
from graphopt.passes.support.constants import drop_unused
from graphopt.passes.weight_pruning.layers import Layer
from graphopt.rewrite import Rewriter


@dataclass(frozen=True)
class Layout:
    """How a weight is seen as a matrix with a row for each output channel: view, permute, flatten."""

    shape: tuple[int, ...]
    view: tuple[int, ...]
    order: tuple[int, ...]
    rows: int

    def to_matrix(self, tensor: torch.Tensor) -> torch.Tensor:
        """[rows, columns] of a tensor of the weight's shape."""
        return tensor.reshape(self.view).permute(self.order).reshape(self.rows, -1).contiguous()

    def restore(self, rewriter: Rewriter, matrix: Value) -> Value:
        """The weight's shape again."""
        shape: tuple[Any, ...] = matrix.shape
        if self.order != tuple(range(len(self.order))):
            permuted = tuple(self.view[i] for i in self.order)
            back = tuple(self.order.index(i) for i in range(len(self.order)))
            if permuted != shape:
                matrix = rewriter.create("aten.reshape", matrix, permuted).result
            matrix = rewriter.create("aten.permute", matrix, back).result
            shape = self.view
        return matrix if shape == self.shape else rewriter.create("aten.reshape", matrix, self.shape).result


@dataclass(frozen=True)
class StoredWeight:
    """A stored weight, and the layer that it belongs to; none if embeddings alone read it."""

    value: Value
    layer: Layer | None

    @property
    def name(self) -> str:
        """Its first name in the model."""
        names = self._constant.names
        return names[0] if names else self.value.name

    @property
    def tensor(self) -> torch.Tensor:
        """What is stored."""
        return self._constant.tensor.detach()

    @property
    def _constant(self) -> Any:
        assert self.value.constant is not None
        return self.value.constant

    @property
    def is_single(self) -> bool:
        """True for single precision."""
        return isinstance(self.value.type, TensorType) and self.value.type.dtype is DType.F32

    @property
    def readers(self) -> list[Node]:
        """The nodes of the layer that read it."""
        return [] if self.layer is None else [reader.node for reader in self.layer.readers]

    @property
    def tables(self) -> list[Node]:
        """The embeddings that read it."""
        users = dict.fromkeys(self.value.users)
        return [node for node in users if node.name == "aten.embedding" and node.operands[0] is self.value]

    @property
    def others(self) -> list[Node]:
        """Nodes of another kind that read it."""
        known = {*self.readers, *self.tables}
        return [node for node in self.value.users if node not in known]

    @property
    def layout(self) -> Layout:
        """The view with output channels as rows."""
        shape, layer = tuple(self.tensor.shape), self.layer
        if layer is not None and layer.kind == "transposed":
            inputs = shape[0] // layer.groups
            view = (layer.groups, inputs, shape[1], math.prod(shape[2:]))
            return Layout(shape, view, (0, 2, 1, 3), layer.groups * shape[1])
        if layer is not None and layer.kind == "product" and not self.tables:
            order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
            return Layout(shape, shape, order, math.prod(shape) // shape[-2])
        return Layout(shape, (shape[0], math.prod(shape[1:])), (0, 1), shape[0])


@dataclass(frozen=True)
class Writer:
    """Puts palettes into a graph."""

    rewriter: Rewriter
    rule: str
    trains: bool

    def write(self, weight: StoredWeight, made: Palette) -> None:
        """Let everything that reads a weight read its palette."""
        readers, tables = weight.readers, weight.tables
        packed = self.rewriter.constant(made.packed(bool(tables)), f"{weight.name}_indices")
        codes = self._parameter(made.codes, f"{weight.name}_codebook")
        scale = None if made.scale is None else self._parameter(made.scale, f"{weight.name}_scale")
        if readers:
            first = next(node for node in self.rewriter.graph if node in readers)
            with self.rewriter.at(first, self.rule):
                whole = self._whole(weight, made, packed, codes, scale)
            for use in weight.value.uses:
                if use.node in readers:
                    self.rewriter.set_operand(use.node, use.index, whole)
        for node in tables:
            with self.rewriter.at(node, self.rule):
                rows, own = (
                    None if x is None else self.rewriter.create("aten.embedding", x, node.operands[1]).result
                    for x in (packed, scale)
                )
                numbers = self.rewriter.create("graphopt.unpack", rows, made.bits, made.indices.shape[1]).result
                found = self.rewriter.create("graphopt.lookup", numbers, codes, own, 0, DType.F32)
            self.rewriter.replace(node, found.results)
        drop_unused(self.rewriter, weight.value)

    def _whole(self, weight: StoredWeight, made: Palette, packed: Value, codes: Value, scale: Value | None) -> Value:
        shape = tuple(made.indices.shape)
        count = shape[1] if weight.tables else made.indices.numel()
        numbers = self.rewriter.create("graphopt.unpack", packed, made.bits, count).result
        if not weight.tables:
            numbers = self.rewriter.create("aten.reshape", numbers, shape).result
        found = self.rewriter.create("graphopt.lookup", numbers, codes, scale, made.group_size, DType.F32).result
        whole = weight.layout.restore(self.rewriter, found)
        whole.name = f"{weight.value.name}_decoded"
        return whole

    def _parameter(self, tensor: torch.Tensor, name: str) -> Value:
        if not self.trains:
            return self.rewriter.constant(tensor, name)
        return self.rewriter.constant(tensor, name, ConstantKind.PARAMETER, names=(name,), requires_grad=True)
