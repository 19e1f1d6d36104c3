"""Scaled dot-product attention: softmax(s · Q Kᵀ + mask) V, heads on the axis before the last two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from graphopt.ir import Node, Value
from graphopt.passes.pruning.rewrite.contractions import first_operand
from graphopt.passes.pruning.rewrite.dead import Dead, unknown
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope, size
from graphopt.passes.pruning.rewrite.table import Treatment, treats

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor


@treats("scaled_dot_product_attention")
class Attention(Treatment):
    """Each result is a mean of V's rows with weights that add up to one."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """A constant column of V stays what it is."""
        v = operands[2]
        result = node.results[0]
        if v is None or not v.anything or node.attributes.get("dropout_p", 0.0):
            return [unknown(result)]
        v = v.collapsed([-2])
        if v.rank > 2 and v.values.shape[-3] > 1 and node.attributes.get("enable_gqa", False):
            times = size(result, len(result.shape) - 3) // v.values.shape[-3]
            v = v.through(lambda t: t.repeat_interleave(times, -3))
        lead = len(result.shape) - v.rank
        return [v.through(lambda t: t.reshape([1] * lead + list(t.shape)))]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Features of Q and K must be zero on one side, positions must stay."""
        query, key, value = node.operands[:3]
        assert query is not None and key is not None and value is not None
        zeros = set(_zeros(node, query, scope)) | set(_zeros(node, key, scope))
        for operand in (query, key):
            axis = len(operand.shape) - 1
            bad = [s for s in scope.removed(operand, axis) if int(s) not in zeros]
            if bad:
                yield _refusal(node, operand, axis, bad, "it is a factor of the attention scores, and not zero")
        mask = node.operands[3] if len(node.operands) > 3 else None
        for operand in (query, key, value):
            axis = len(operand.shape) - 2
            removed = scope.removed(operand, axis)
            if len(removed):
                yield _refusal(node, operand, axis, removed, "attention needs all positions")
        if mask is not None:
            for axis in scope.axes(mask):
                if axis >= len(mask.shape) - 2:
                    yield _refusal(node, mask, axis, scope.removed(mask, axis), "attention needs all positions")

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """The scale that followed from the number of features stays."""
        query = first_operand(node)
        axis = len(query.shape) - 1
        if node.attributes.get("scale") is None and editor.scope.kept(query, axis) is not None:
            return editor.again(node, scale=1.0 / sqrt(size(query, axis))).results
        return editor.again(node).results


def _zeros(node: Node, value: Value, scope: Scope) -> Iterator[int]:
    axis = len(value.shape) - 1
    numbers, refused = scope.entering(node, value, axis)
    unknown_slots = {int(s) for r in refused for s in r.slots}
    return (int(s) for s in scope.removed(value, axis) if numbers[s] == 0 and int(s) not in unknown_slots)


def _refusal(node: Node, value: Value, axis: int, slots: Sequence[int] | np.ndarray, reason: str) -> Refusal:
    return Refusal(value, axis, np.asarray(slots, dtype=np.int64), node, reason)
