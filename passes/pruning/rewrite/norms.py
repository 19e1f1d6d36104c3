"""Normalizations.

Where statistics are taken over slots that go, those of the masked model are taken over the full width, in which the
dead slots hold their constants. Root-mean-square norms keep their form: with r = n'/n of the slots left,

    x / √(r · mean'(x²) + ε) · w  =  x / √(mean'(x²) + ε/r) · (w / √r).

Layer and group norms are run on x filled up to the full width, and cut again: the same kernel on the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.pruning.rewrite.contractions import first_operand, nonzero
from graphopt.passes.pruning.rewrite.dead import Dead, filled, unknown, where_known
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope, size
from graphopt.passes.pruning.rewrite.table import Treatment, treats

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor

FULL_WIDTH = "its norm would need the statistics of the full width"
UNEQUAL = "the constants that the norm's statistics need differ"


def _column(dead: Dead | None, rank: int, axis: int, node: Node, number: float) -> Dead:
    """One number a channel, along an axis; `number` where there is no tensor."""
    if dead is None:
        return filled(node.results[0], number)
    shape = [1] * rank
    shape[axis] = -1
    return dead.through(lambda t: t.reshape(shape))


def _scaled_by_zero(node: Node, weight: Dead, bias: Dead) -> Dead:
    """0 · anything + b = b."""
    return where_known(node.results[0], bias.values, weight.zero & bias.known)


@treats("instance_norm")
class InstanceNorm(Treatment):
    """Statistics of each channel (axis 1) of each image."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """β where γ is zero or x is constant."""
        x = operands[0]
        assert x is not None
        weight, bias = (_column(d, x.rank, 1, node, n) for d, n in zip(operands[1:3], (1.0, 0.0)))
        constant = x.collapsed(range(2, x.rank)).known
        known = weight.zero | constant if node.attributes.get("use_input_stats", True) is True else weight.zero
        return [where_known(node.results[0], bias.values, bias.known & known)]


class FullWidth(Treatment):
    """Norms whose statistics need slots that go."""

    def normalized(self, node: Node, scope: Scope) -> Iterator[int]:
        """The axes over which statistics are taken, of those that lose slots."""
        raise NotImplementedError

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Slots that are no constant; unequal constants."""
        value, found = first_operand(node), []
        for axis in self.normalized(node, scope):
            removed = scope.removed(value, axis)
            if not scope.rescale:
                yield Refusal(value, axis, removed, node, FULL_WIDTH)
                continue
            numbers, refused = scope.entering(node, value, axis)
            yield from refused
            known = np.setdiff1d(removed, np.concatenate([r.slots for r in refused]) if refused else [])
            found.append((axis, removed, numbers, known))
        constants = {float(numbers[k]) for _, _, numbers, known in found for k in known}
        if not self.takes(constants):
            for axis, _, numbers, _ in found:
                yield from nonzero(node, value, axis, numbers, UNEQUAL)

    def takes(self, constants: set[float]) -> bool:
        """Whether the norm can do with these constants."""
        return len(constants) <= 1

    def constant(self, node: Node, scope: Scope, axes: Sequence[int]) -> float:
        """The constant that fills the axes up."""
        value = first_operand(node)
        for axis in axes:
            numbers, _ = scope.entering(node, value, axis)
            return float(numbers[int(scope.removed(value, axis)[0])])
        return 0.0


@treats("batch_norm native_batch_norm _native_batch_norm_legit_no_training")
class BatchNorm(FullWidth):
    """γ (x − μ) / √(σ² + ε) + β, channels on axis 1. Only a stored weight that it standardizes may lose slots of other
    axes."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """β where γ is zero, or where x is constant and the statistics are those of its batch."""
        x, *parameters = operands
        assert x is not None
        named = dict(zip(("weight", "bias", "mean", "var"), parameters))
        weight, bias, mean, var = (
            _column(named[name], x.rank, 1, node, number)
            for name, number in (("weight", 1.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0))
        )
        rest = [unknown(r) for r in node.results[1:]]
        if node.attributes.get("training", False) is True or named["mean"] is None:
            known = bias.known & (weight.zero | x.collapsed(a for a in range(x.rank) if a != 1).known)
            return [where_known(node.results[0], bias.values, known), *rest]
        scale = weight.values * (var.values + node.attributes["eps"]).rsqrt()
        values = torch.where(weight.zero, 0.0, (x.values - mean.values) * scale) + bias.values
        known = bias.known & (weight.zero | (x.known & weight.known & mean.known & var.known))
        return [where_known(node.results[0], values, known), *rest]

    def normalized(self, node: Node, scope: Scope) -> Iterator[int]:
        """All axes but the channels."""
        return (axis for axis in scope.axes(first_operand(node)) if axis != 1)

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Fill up, standardize, cut."""
        axes = list(self.normalized(node, editor.scope))
        if not axes:
            return editor.again(node).results
        value, (x, *rest) = first_operand(node), editor.values(node.operands)
        assert x is not None
        full = editor.filled(x, axes, [size(value, a) for a in axes], self.constant(node, editor.scope, axes))
        return [editor.cut(editor.again(node, [full, *rest]).results[0], axes, x)]


@treats("layer_norm")
class LayerNorm(FullWidth):
    """(x − mean) / √(var + ε) · w + b over the last axes."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """b where w is zero."""
        weight, bias = operands[1:3]
        if weight is None:
            return [unknown(node.results[0])]
        return [_scaled_by_zero(node, weight, filled(node.results[0], 0.0) if bias is None else bias)]

    def normalized(self, node: Node, scope: Scope) -> Iterator[int]:
        """The last axes."""
        value = first_operand(node)
        first = len(value.shape) - len(node.attributes["normalized_shape"])
        return (axis for axis in scope.axes(value) if axis >= first)

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Fill up, normalize without weights, cut, then weight."""
        axes = list(self.normalized(node, editor.scope))
        if not axes:
            return editor.again(node).results
        value = first_operand(node)
        x = editor.value(value)
        filled_up = editor.filled(x, axes, [size(value, a) for a in axes], self.constant(node, editor.scope, axes))
        shape, eps = node.attributes["normalized_shape"], node.attributes["eps"]
        norm = editor.create("aten.layer_norm", filled_up, shape, eps=eps)
        return [_weighted(editor, editor.cut(norm, axes, x), *editor.values(node.operands)[1:3])]


def _weighted(editor: Editor, x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = editor.create("aten.mul.Tensor", x, weight)
    return x if bias is None else editor.create("aten.add.Tensor", x, bias)


@treats("group_norm")
class GroupNorm(FullWidth):
    """Statistics over groups of channels (axis 1)."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """b where w is zero."""
        rank = len(node.results[0].shape)
        weight, bias = (_column(d, rank, 1, node, n) for d, n in zip(operands[1:3], (1.0, 0.0)))
        return [_scaled_by_zero(node, weight, bias)]

    def normalized(self, node: Node, scope: Scope) -> Iterator[int]:
        """The channels, unless whole groups go."""
        return iter([] if _shrunk(node, scope)[1] == _width(node) else [1])

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Fewer groups, or groups filled up to their width and cut again."""
        groups, width = _shrunk(node, editor.scope)
        if width == _width(node):
            return editor.again(node, num_groups=groups).results
        value = first_operand(node)
        x = editor.value(value)
        shape = x.shape
        apart = editor.create("aten.reshape", x, (shape[0], groups, width, *shape[2:]))
        number = self.constant(node, editor.scope, [1])
        full = editor.filled(apart, [2], [_width(node)], number)
        together = editor.create("aten.reshape", full, (shape[0], groups * _width(node), *shape[2:]))
        norm = editor.create("aten.group_norm", together, groups, eps=node.attributes["eps"])
        cut = editor.cut(editor.create("aten.reshape", norm, full.shape), [2], apart)
        weights = [
            None if w is None else editor.create("aten.reshape", w, (-1, *[1] * (len(shape) - 2)))
            for w in editor.values(node.operands)[1:3]
        ]
        return [_weighted(editor, editor.create("aten.reshape", cut, shape), *weights)]


def _width(node: Node) -> int:
    return size(first_operand(node), 1) // int(node.attributes["num_groups"])


def _shrunk(node: Node, scope: Scope) -> tuple[int, int]:
    """The groups that are left, and the channels in each."""
    kept = scope.kept(first_operand(node), 1)
    if kept is None:
        return int(node.attributes["num_groups"]), _width(node)
    groups = len(np.unique(kept // _width(node)))
    return groups, len(kept) // groups


@treats("rms_norm")
class RMSNorm(FullWidth):
    """x / √(mean(x²) + ε) · w over the last axes."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """0 where x or w is."""
        x, weight = operands[0], operands[1] if len(operands) > 1 else None
        assert x is not None
        zero = x.zero if weight is None else x.zero | weight.through(lambda t: _of_rank(t, x.rank)).zero
        return [where_known(node.results[0], torch.zeros_like(zero, dtype=torch.float64), zero)]

    def normalized(self, node: Node, scope: Scope) -> Iterator[int]:
        """The last axes."""
        return LayerNorm.normalized(self, node, scope)  # type: ignore[arg-type]

    def takes(self, constants: set[float]) -> bool:
        """Zeros only: they leave the sum of squares alone."""
        return constants <= {0.0}

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """ε / r, and the weight over √r."""
        axes = list(self.normalized(node, editor.scope))
        if not axes:
            return editor.again(node).results
        value = first_operand(node)
        share = 1.0
        for axis in axes:
            share *= editor.length(value, axis) / size(value, axis)
        operands, changes = editor.values(node.operands), self._shape(node, editor)
        weight = operands[1] if len(operands) > 1 else None
        if weight is not None:
            operands[1] = editor.create("aten.mul.Scalar", weight, 1.0 / sqrt(share))
        result = editor.again(node, operands, eps=_epsilon(node) / share, **changes).results[0]
        return [result if weight is not None else editor.create("aten.mul.Scalar", result, 1.0 / sqrt(share))]

    def _shape(self, node: Node, editor: Editor) -> dict[str, Any]:
        count = len(node.attributes["normalized_shape"])
        return {"normalized_shape": editor.shape(first_operand(node))[-count:]}


def _of_rank(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    return tensor.reshape([1] * (rank - tensor.dim()) + list(tensor.shape))


def _epsilon(node: Node) -> float:
    given = node.attributes.get("eps")
    if given is not None:
        return float(given)
    type_ = first_operand(node).type
    assert isinstance(type_, TensorType)
    return float(torch.finfo(type_.dtype.torch).eps)


@treats("_weight_norm")
class WeightNorm(Treatment):
    """g · v / |v|, with a norm for each slot of one axis."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """Zero where v or g is."""
        v, g = operands
        assert v is not None and g is not None
        zero = v.zero | g.zero
        return [where_known(node.results[0], torch.zeros_like(zero, dtype=torch.float64), zero)]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Slots that have a share in the norms."""
        value = first_operand(node)
        for axis in scope.axes(value):
            if axis != node.attributes.get("dim", 0):
                numbers, refused = scope.entering(node, value, axis)
                yield from refused
                yield from nonzero(node, value, axis, numbers, "the norm of the weight would change")
