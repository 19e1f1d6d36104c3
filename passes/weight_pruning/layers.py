"""Layers with a stored weight, each seen as matrices: y[g] = W[g] x[g], W[g]: [rows, columns].

A row makes one output; columns are what it reads, kernel positions first and input channels last, so that neighbours
among the columns are neighbouring channels at one position of the kernel.

    linear, matmul        W: [out, in] or [in, out]           1 group
    matmul, bmm           W: [g, in, out]                     g groups
    conv                  W: [out, in / g, k…]                g groups, rows out / g, columns k · in / g
    conv_transpose        W: [in, out / g, k…]                g groups, rows out / g · k, columns in / g
    lstm, gru, rnn        W: [gates · hidden, in]             1 group; what its columns read is not known
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from graphopt.ir import ConstantKind, Graph, Node, TensorType, Value
from graphopt.passes.fold_masks import masked_weight
from graphopt.passes.weight_pruning.patches import patches

_CONVS = frozenset({"aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution"})
_TRANSPOSED = frozenset({"aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"})
READING = frozenset({"aten.linear"}) | _CONVS | _TRANSPOSED
"""Operators that sum over the channels of their first operand by a stored weight."""
_PRODUCTS = {"aten.mm": (0, 1), "aten.matmul": (0, 1), "aten.bmm": (0, 1), "aten.addmm": (1, 2)}
_RECURRENT = frozenset({"aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"})
_CELLS = frozenset({"aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell"})


@dataclass(frozen=True)
class Reader:
    """A node that reads a weight.

    source: the value whose channels the columns read; None if it is hidden inside the operator.
    """

    node: Node
    source: Value | None


@dataclass(frozen=True)
class Layer:
    """A stored weight and what reads it.

    weight: the parameter. mask: what multiplies it already, or None. product: the node that does.
    kind: "linear", "product", "conv", "transposed" or "recurrent". groups: of a convolution or batched product.
    """

    weight: Value
    kind: str
    groups: int
    readers: tuple[Reader, ...]
    mask: Value | None = None
    product: Node | None = None

    @property
    def name(self) -> str:
        """The parameter's first name in the model."""
        constant = self.weight.constant
        assert constant is not None
        return constant.names[0] if constant.names else self.weight.name

    @property
    def tensor(self) -> torch.Tensor:
        """The weight as it acts: with its mask, if it has one."""
        assert self.weight.constant is not None
        tensor = self.weight.constant.tensor.detach()
        return tensor if self.mask is None else tensor * self.mask_tensor

    @property
    def mask_tensor(self) -> torch.Tensor:
        """The mask that there is already; ones if there is none."""
        assert self.weight.constant is not None
        if self.mask is None or self.mask.constant is None:
            return torch.ones_like(self.weight.constant.tensor)
        return self.mask.constant.tensor.detach().expand(self.weight.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the weight."""
        return tuple(int(size) for size in self.weight.shape)

    @property
    def channels(self) -> int:
        """How many columns stand side by side: the input channels at one position of the kernel."""
        shape = self.shape
        if self.kind == "conv":
            return shape[1]
        return shape[0] // self.groups if self.kind == "transposed" else self.matrix_shape[2]

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """Groups, rows, columns."""
        shape, groups = self.shape, self.groups
        if self.kind == "conv":
            return groups, shape[0] // groups, math.prod(shape[1:])
        if self.kind == "transposed":
            return groups, math.prod(shape[1:]), shape[0] // groups
        rows, columns = (shape[-1], shape[-2]) if self.kind == "product" else (shape[-2], shape[-1])
        return groups, rows, columns

    def to_matrices(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the weight's shape as matrices [groups, rows, columns]."""
        groups, rows, columns = self.matrix_shape
        if self.kind == "conv":
            return tensor.reshape(groups, rows, self.channels, -1).transpose(2, 3).reshape(groups, rows, columns)
        if self.kind == "transposed":
            return tensor.reshape(groups, columns, rows).transpose(1, 2)
        tensor = tensor.reshape(groups, *tensor.shape[-2:])
        return tensor.transpose(1, 2) if self.kind == "product" else tensor

    def from_matrices(self, matrices: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_matrices`; contiguous."""
        groups, rows, _ = self.matrix_shape
        if self.kind == "conv":
            matrices = matrices.reshape(groups, rows, -1, self.channels).transpose(2, 3)
        elif self.kind in ("transposed", "product"):
            matrices = matrices.transpose(1, 2)
        return matrices.reshape(self.shape).contiguous()

    def inputs(self, node: Node, source: torch.Tensor) -> Iterator[torch.Tensor]:
        """What the columns read, [groups, positions, columns], in pieces of bounded size."""
        groups, _, columns = self.matrix_shape
        if self.kind == "conv":
            yield from patches(node, source, self.shape[2:], groups)
        elif self.kind == "transposed":
            spatial = len(self.shape) - 2
            batched = source if source.dim() == spatial + 2 else source.unsqueeze(0)
            yield batched.movedim(1, -1).reshape(-1, groups, columns).transpose(0, 1)
        elif groups > 1:
            yield source.reshape(groups, -1, columns)
        else:
            yield source.reshape(1, -1, columns)


def find_layers(graph: Graph, *, folded: bool = False) -> list[Layer]:
    """Every parameter that a layer multiplies its input with, in graph order.

    folded: stored tensors, too, that are no parameters of the model, such as weights that were packed into one.
    A weight that several nodes read is one layer; nodes that only look it up (a tied embedding) see the mask too.
    """
    masks = [(pair, node) for node in graph if (pair := masked_weight(node, graph)) is not None]
    masked = {weight: (mask, node) for (weight, mask), node in masks}
    acting = {node.result: weight for weight, (_, node) in masked.items()}
    found: dict[Value, list[tuple[str, int, Reader]]] = {}
    for node in graph:
        for kind, groups, weight, source in _weights(node):
            found.setdefault(acting.get(weight, weight), []).append((kind, groups, Reader(node, source)))
    layers = []
    for weight, readers in found.items():
        if not _is_stored(weight, graph, folded):
            continue
        # A weight that is read in two layouts has no matrix form for both: the first one counts.
        kind, groups, _ = readers[0]
        same = tuple(reader for k, g, reader in readers if (k, g) == (kind, groups))
        mask, product = masked.get(weight, (None, None))
        layers.append(Layer(weight, kind, groups, same, mask, product))
    return layers


def _is_stored(weight: Value, graph: Graph, folded: bool) -> bool:
    constant, type_ = weight.constant, weight.type
    if constant is None or weight.name in graph.mutations:
        return False
    if constant.kind is not ConstantKind.PARAMETER and not folded:
        return False
    return isinstance(type_, TensorType) and type_.dtype.is_floating and not constant.tensor.is_meta


def _weights(node: Node) -> Iterator[tuple[str, int, Value, Value | None]]:
    """Kind, groups, weight and source of each weight that a node reads."""
    base, operands = node.op.base, node.operands
    if base == "aten.linear" and operands[1] is not None and len(operands[1].shape) == 2:
        yield "linear", 1, operands[1], operands[0]
    elif base in _CONVS or base in _TRANSPOSED:
        transposed = base in _TRANSPOSED or bool(node.attributes.get("transposed", False))
        if operands[1] is not None:
            yield "transposed" if transposed else "conv", int(node.attr("groups")), operands[1], operands[0]
    elif base in _PRODUCTS:
        yield from _product(node, *_PRODUCTS[base])
    elif base in _RECURRENT:
        for value in node.operand("params"):
            if len(value.shape) == 2:
                yield "recurrent", 1, value, None
    elif base in _CELLS:
        yield from (("recurrent", 1, node.operand(name), None) for name in ("w_ih", "w_hh"))


def _product(node: Node, left: int, right: int) -> Iterator[tuple[str, int, Value, Value | None]]:
    source, weight = node.operands[left], node.operands[right]
    if source is None or weight is None:
        return
    if len(weight.shape) == 2:
        yield "product", 1, weight, source
    elif len(weight.shape) == 3 and len(source.shape) == 3 and all(isinstance(size, int) for size in weight.shape):
        yield "product", int(weight.shape[0]), weight, source
