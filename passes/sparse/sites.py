"""Layers whose stored weight may be sparse: linear layers and convolutions, with the activation behind them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.ops.sparse import HEIGHTS, Compressed, block_counts, compress
from graphopt.passes.support.contractions import CONTRACTIONS
from graphopt.rewrite import Rewriter
from graphopt.rewrite.pattern import Surroundings

_ACTIVATIONS = {"aten.relu": "relu", "aten.silu": "silu", "aten.gelu": "gelu"}
_DENSE = 0.6
"""Share of weights from which on nothing is to be won; the zeros outside of a convolution's groups count, too."""


_TWO_OF_FOUR = 0.375
"""Share of weights above which most fours that hold two at most hold two."""


@dataclass(frozen=True)
class Site:
    """act(W x + b) at a node. last: the activation's node, or the layer's own. spatial: dims of a convolution, or 0."""

    node: Node
    last: Node
    activation: str
    weight: Value
    bias: Value | None
    spatial: int
    groups: int

    @property
    def name(self) -> str:
        """The parameter's first name in the model."""
        assert self.weight.constant is not None
        return self.weight.constant.names[0] if self.weight.constant.names else self.weight.name

    @property
    def input(self) -> Value:
        """What the layer reads."""
        value = self.node.operands[0]
        assert value is not None
        return value

    @cached_property
    def matrix(self) -> torch.Tensor:
        """[outputs, inputs of a group · kernel places]."""
        assert self.weight.constant is not None
        tensor = self.weight.constant.tensor.detach()
        return tensor.reshape(tensor.shape[0], -1)

    @property
    def inner(self) -> int:
        """The columns of the whole matrix: all input channels · kernel places."""
        return self.matrix.shape[1] * self.groups

    @cached_property
    def counts(self) -> dict[int, int]:
        """How many blocks of each height hold the weights; heights that divide the rows of a group."""
        rows = self.matrix.shape[0] // self.groups
        return {h: n for h, n in block_counts(self.matrix).items() if rows % h == 0}

    @property
    def density(self) -> float:
        """The share of the weights that are not zero, of all that the dense layer multiplies."""
        return self.counts[1] / max(self.matrix.numel(), 1)

    def sizes(self, name: str) -> tuple[int, ...]:
        """An option of a convolution, for each spatial dim."""
        given = self.node.attr(name)
        if given == "same":
            return tuple(d * (k - 1) // 2 for d, k in zip(self.sizes("dilation"), self.weight.shape[2:]))
        if given == "valid":
            given = 0
        numbers = tuple(given) if isinstance(given, tuple | list) else (given,)
        return numbers * self.spatial if len(numbers) == 1 else numbers

    def compressed(self, height: int) -> Compressed:
        """The weight in blocks; columns of a grouped convolution count over all groups."""
        found = compress(self.matrix, height)
        if self.groups == 1:
            return found
        counts = found.crow_indices.diff().long()
        rows_of_group = self.matrix.shape[0] // self.groups // height
        group = torch.arange(counts.numel()).repeat_interleave(counts) // rows_of_group
        shifted = found.col_indices + (group * self.matrix.shape[1]).int()
        return found._replace(col_indices=shifted)

    def build(self, rewriter: Rewriter, x: Value, parts: tuple[Value, Value, Value], bias: Value | None) -> Value:
        """The layer by the sparse operator."""
        if not self.spatial:
            return rewriter.create("graphopt.sparse_linear", x, *parts, bias, self.inner, self.activation).result
        kernel = tuple(int(size) for size in self.weight.shape[2:])
        options = (kernel, *(self.sizes(name) for name in ("stride", "padding", "dilation")))
        return rewriter.create("graphopt.sparse_conv", x, *parts, bias, *options, self.activation).result


def find_site(node: Node, surroundings: Surroundings, outputs: frozenset[Value]) -> Site | str | None:
    """The layer at a node; why it stays dense; or None if it is none with a stored weight.

    outputs: of the graph.
    """
    if node.op.base not in CONTRACTIONS or node.operands[1] is None:
        return None
    weight, bias = node.operands[1], node.operands[2] if len(node.operands) > 2 else None
    if weight.constant is None:
        masked = weight.producer is not None and any(v.constant is not None for v in weight.producer.inputs)
        return "its weight is computed; fold-masks and fold-constants store it" if masked else None
    reason = _refusal(node, weight, bias, surroundings)
    if reason is not None:
        return reason
    spatial = 0 if node.op.base == "aten.linear" else weight.type.rank - 2  # type: ignore[union-attr]
    last, activation = _activation(node, outputs)
    site = Site(node, last, activation, weight, bias, spatial, int(node.attributes.get("groups", 1)))
    if site.density / site.groups > _DENSE:
        return f"{site.density:.0%} of its weights are not zero"
    return site


def _refusal(node: Node, weight: Value, bias: Value | None, surroundings: Surroundings) -> str | None:
    assert weight.constant is not None
    type_ = weight.type
    if not isinstance(type_, TensorType) or type_.rank < 2 or weight.constant.tensor.is_meta:
        return "its weight is no matrix"
    if not all(weight.shape) or "transpose" in node.op.base or node.attributes.get("transposed", False):
        return "there is no sparse kernel for it"
    if node.attributes.get("padding") == "same" and any(int(k) % 2 == 0 for k in weight.shape[2:]):
        return "its padding differs from side to side"
    dtype = type_.dtype.value
    if dtype != "f32" or (bias is not None and bias.type.dtype is not type_.dtype):  # type: ignore[union-attr]
        return f"there is no sparse kernel for {dtype}"
    if type_.device != "cpu":
        return f"there is no sparse kernel for {type_.device}"
    if weight.name in surroundings.updated:
        return "its weight changes from call to call"
    if surroundings.trainable and weight.num_uses > 1:
        return "its weight is trained at several places"
    return None


def _activation(node: Node, outputs: frozenset[Value]) -> tuple[Node, str]:
    """What follows the layer and nothing else reads."""
    result = node.result
    if result.num_uses != 1 or result in outputs:
        return node, "none"
    user = result.users[0]
    found = _ACTIVATIONS.get(user.op.base)
    if found is None or user.attributes.get("approximate", "none") != "none":
        return node, "none"
    return user, found


def format_name(height: int) -> str:
    """What the field calls blocks of a height."""
    return "CSR" if height == 1 else f"BSR {height}x1"


def is_two_of_four(site: Site) -> bool:
    """Whether of any four neighbours in a row two at most are not zero, and most of the time two are."""
    matrix = site.matrix
    if matrix.shape[1] % 4 or not _TWO_OF_FOUR < site.density <= 0.5:
        return False
    live = (matrix != 0).view(torch.uint8)
    counts = live[:, 0::4] + live[:, 1::4] + live[:, 2::4] + live[:, 3::4]
    return bool((counts <= 2).all())


__all__ = ["HEIGHTS", "Site", "find_site", "format_name", "is_two_of_four"]
