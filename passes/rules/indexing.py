"""Look-ups whose index is known to be regular.

    x[arange(n)[:, None], arange(m)] → x                     an index that counts through each dim is the identity
    embedding(w, expand(i)) → expand(embedding(w, i))        equal rows are looked up once

Both bitwise. The first is how attention masks are gathered for each batch and position.
"""

from __future__ import annotations

import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dims import Dim, known_equal
from graphopt.passes.rules.permutes import is_identity, permuted
from graphopt.passes.rules.reshapes import EXPANDS, is_reshape, reshaped
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, produced_by, var
from graphopt.rewrite.pattern import Surroundings
from graphopt.rewrite.rule import Replacement

_COUNT_LIMIT = 1 << 20
_ANYWHERE = -1_000


def counts_to(value: Value, size: Dim, surroundings: Surroundings) -> int | None:
    """The axis along which `value` is 0, 1, …, size − 1 while its other dims are 1, counted from the end.

    For a size of 1 the axis may be `_ANYWHERE`. None: the values are not known to be so.
    """
    type_ = value.type
    if not isinstance(type_, TensorType) or not type_.dtype.is_integer:
        return None
    wide = [axis for axis, dim in enumerate(type_.shape) if dim != 1]
    if not wide and size == 1:
        return _ANYWHERE if _is_count(value, surroundings) else None
    if len(wide) != 1 or not known_equal(type_.shape[wide[0]], size):
        return None
    return wide[0] - type_.rank if _is_count(value, surroundings) else None


def _is_count(value: Value, surroundings: Surroundings) -> bool:
    """The elements in order are 0, 1, 2, …"""
    while (node := value.producer) is not None and is_reshape(node):
        source = node._operands[0]
        assert source is not None
        value = source
    node = value.producer
    if node is not None:
        return _is_arange(node)
    if not surroundings.is_fixed(value):
        return False
    assert value.constant is not None
    tensor = value.constant.tensor.detach().reshape(-1)
    return tensor.numel() <= _COUNT_LIMIT and torch.equal(tensor, torch.arange(tensor.numel(), dtype=tensor.dtype))


def _is_arange(node: Node) -> bool:
    if node.op.base != "aten.arange":
        return False
    start, step = node.attributes.get("start", 0), node.attributes.get("step", 1)
    return isinstance(start, int) and start == 0 and isinstance(step, int) and step == 1


class IndexThatCounts(Rule):
    """x[i₀, i₁, …] with every index counting through its dim, each along an axis of its own."""

    name = "index-that-counts"
    contract = Contract.BITWISE
    pattern = aten.index.Tensor(...)

    def guard(self, match: Match) -> bool:
        """There is an index for every dim."""
        root = match.root
        source = root._operands[0]
        return source is not None and len(root._operands) == len(source.shape) + 1 and None not in root._operands

    def check(self, match: Match) -> str | None:
        """Each index counts, and no two along one axis."""
        return None if self._axes(match) is not None else "an index is not known to count through its dim"

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Permute if the axes are out of order, and reshape to the result."""
        source, axes = match.root.operands[0], self._axes(match)
        assert source is not None and axes is not None
        order = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        moved = source if is_identity(order) else permuted(source, order, rewriter)
        return reshaped(moved, match.root.results[0], rewriter)

    @staticmethod
    def _axes(match: Match) -> list[int] | None:
        """The axis of the result, counted from its end, that each dim of x goes to."""
        source, *indices = match.root._operands
        assert source is not None
        axes: list[int] = []
        for size, index in zip(source.shape, indices):
            assert index is not None
            axis = counts_to(index, size, match.surroundings)
            if axis is None:
                return None
            axes.append(axis)
        placed = [axis for axis in axes if axis != _ANYWHERE]
        return axes if len(set(placed)) == len(placed) else None


class EmbeddingOfExpand(Rule):
    """embedding(w, expand(i)) → expand(embedding(w, i))."""

    name = "embedding-of-expand"
    contract = Contract.BITWISE
    pattern = aten.embedding(var("w"), produced_by(EXPANDS, "wide"), ...)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Look up first, expand the rows."""
        root = match.root
        rows = rewriter.rebuild(root, (match["w"], match.node("wide").operands[0])).result
        return rewriter.create("aten.expand", rows, root.results[0].shape).result


RULES: tuple[Rule, ...] = (IndexThatCounts(), EmbeddingOfExpand())
