"""Tensors that are made from sizes and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.pruning.rewrite.dead import Dead, filled, unknown, where_known
from graphopt.passes.pruning.rewrite.scope import KNOWN_ELEMENTS, Scope
from graphopt.passes.pruning.rewrite.table import Treatment, treats
from graphopt.passes.support.evaluation import evaluate

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor


@treats("zeros zeros_like new_zeros ones ones_like new_ones full full_like new_full fill empty new_empty empty_like")
class Filled(Treatment):
    """One number everywhere."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """The number."""
        base, attributes = node.op.base, node.attributes
        number = 0.0 if "zeros" in base else 1.0 if "ones" in base else attributes.get("fill_value")
        number = attributes.get("value") if base == "aten.fill" else number
        return [filled(node.results[0], number) if isinstance(number, int | float) else unknown(node.results[0])]

    def attributes(self, node: Node, editor: Editor) -> dict[str, Any]:
        """The size."""
        return {"size": editor.size(node.results[0], node.attributes["size"])} if "size" in node.attributes else {}


@treats("arange linspace eye scalar_tensor tril_indices triu_indices")
class Counted(Treatment):
    """Numbers that follow from their places: made as before, and then picked."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """All of them, if they are few."""
        result = node.results[0]
        if node.attributes.symbols or not _is_small(result):
            return [unknown(result)]
        (values,) = evaluate(node, [])
        values = values.double() if values.is_floating_point() else values
        return [where_known(result, values, torch.ones_like(values, dtype=torch.bool))]

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """The slots that are left, of the same tensor."""
        value, result = editor.again(node).results[0], node.results[0]
        for axis in editor.scope.axes(result):
            kept = editor.scope.kept(result, axis)
            assert kept is not None
            value = editor.taken(value, axis, np.asarray(kept))
        return [value]


def _is_small(value: Value) -> bool:
    if not isinstance(value.type, TensorType) or not all(isinstance(d, int) for d in value.type.shape):
        return False
    numel = value.type.numel
    return isinstance(numel, int) and numel <= KNOWN_ELEMENTS


@treats("rand randn randint")
class Random(Counted):
    """Numbers that are drawn: the same as before, and then picked."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """Nothing is known."""
        return [unknown(node.results[0])]
