"""Sums of products: what is dead in a sum contributes a constant, which goes to the bias.

y[o] = Σᵢ W[o, i] · x[i] + b[o]        x[i] = c[i] for the dead i:     b[o] + Σ_{dead i} W[o, i] · c[i]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.pruning.rewrite.dead import Dead, harmonized, unknown, where_known
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope
from graphopt.passes.pruning.rewrite.table import Treatment, treats
from graphopt.passes.support.contractions import Contraction

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor

BORDER = "zero padding makes its constant vary at the border"
COMPUTED = "its constant meets a weight that is computed"
VARIES = "its constant contributes differently from place to place"


def nonzero(node: Node, value: Value, axis: int, numbers: torch.Tensor, reason: str) -> Iterator[Refusal]:
    """Refuse the slots whose constant is not zero."""
    slots = numbers.nonzero().flatten().numpy()
    if len(slots):
        yield Refusal(value, axis, slots, node, reason)


@treats("linear conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d conv_transpose3d")
class Layer(Treatment):
    """A layer with a weight: linear, convolution, transposed convolution."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """An output whose row of the weight is zero, or that sums zeros only, is its bias."""
        layer, result = described(node), node.results[0]
        x, weight, *rest = operands
        assert x is not None and weight is not None
        axis = layer.channel_axis(result)
        column = [-1, *[1] * (len(result.shape) - 1 - axis)]
        zero = _rows_of_zeros(layer, weight).reshape(column) | _inputs_of_zeros(layer, x)
        bias = rest[0] if rest else None
        if bias is None:
            return [where_known(result, torch.zeros_like(zero, dtype=torch.float64), zero)]
        bias = bias.through(lambda t: t.reshape(column))
        return [where_known(result, bias.values, bias.known & zero)]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Inputs that are no constant, and constants that padding or striding cuts up."""
        layer, value = described(node), first_operand(node)
        axis = layer.channel_axis(value)
        numbers, refused = _heard(layer, scope)
        yield from refused
        if layer.transposed:
            yield from nonzero(node, value, axis, numbers, VARIES)
        elif scope.stored(layer.weight) is None:
            yield from nonzero(node, value, axis, numbers, COMPUTED)
        elif len(layer.weight.shape) < 2:
            yield from nonzero(node, value, axis, numbers, "there is no bias to fold its constant into")
        elif layer.pads and not scope.border:
            yield from nonzero(node, value, axis, numbers, BORDER)

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """The same layer; the constants go to its bias."""
        layer = described(node)
        changes = {} if layer.groups == 1 else {"groups": _groups(layer, editor)}
        operands = editor.values(node.operands)
        shift = _response(layer, editor.scope)
        if shift is not None:
            operands[2:] = [editor.shifted(operands[2] if len(operands) > 2 else None, shift, layer.weight)]
        return editor.again(node, operands, **changes).results


def described(node: Node) -> Contraction:
    """The layer at a node."""
    weight = node.operands[1]
    bias = node.operands[2] if len(node.operands) > 2 else None
    assert weight is not None and isinstance(weight.type, TensorType)
    transposed = "transpose" in node.op.base or bool(node.attributes.get("transposed", False))
    spatial = 0 if node.op.base == "aten.linear" else weight.type.rank - 2
    return Contraction(node, weight, bias, spatial, node.attributes.get("groups", 1), transposed)


def first_operand(node: Node) -> Value:
    """The operand that every call has."""
    value = node.operands[0]
    assert value is not None
    return value


def _rows_of_zeros(layer: Contraction, weight: Dead) -> torch.Tensor:
    """Bools by output, True where its row of the weight is zero; one bool stands for all outputs."""
    axis = 1 if layer.transposed else 0
    others = [a for a in range(weight.rank) if a != axis]
    rows = torch.amin(weight.zero.to(torch.uint8), others).bool()
    return rows.repeat(layer.groups) if layer.transposed and rows.numel() > 1 else rows


def _inputs_of_zeros(layer: Contraction, x: Dead) -> torch.Tensor:
    """Where an output sums nothing but zeros; shaped to broadcast with the result."""
    axis = x.rank - 1 - layer.spatial
    zero = x.zero
    for a in range(axis + 1, x.rank):
        zero = zero.all(a, keepdim=True)
    if layer.groups == 1 or zero.shape[axis] == 1:
        return zero.all(axis, keepdim=True)
    zero = zero.unflatten(axis, (layer.groups, -1)).all(axis + 1)
    return zero.repeat_interleave(layer.out_channels // layer.groups, axis)


def _groups(layer: Contraction, editor: Editor) -> int:
    """Groups have as many channels as the weight's second axis says."""
    node = layer.node
    value = node.results[0] if layer.transposed else first_operand(node)
    channels, width = editor.shape(value)[layer.channel_axis(value)], editor.shape(layer.weight)[1]
    assert isinstance(channels, int) and isinstance(width, int)
    return channels // width


def _heard(layer: Contraction, scope: Scope) -> tuple[torch.Tensor, list[Refusal]]:
    """What enters a layer (see `Scope.entering`), without what it multiplies by zero."""
    value = first_operand(layer.node)
    axis = layer.channel_axis(value)
    numbers, refused = scope.entering(layer.node, value, axis)
    if layer.groups != 1 or len(layer.weight.shape) < 2 or not (refused or bool(numbers.any())):
        return numbers, refused
    column = 0 if layer.transposed else 1
    weight = scope.dead(layer.weight)
    silent = (
        weight.collapsed(a for a in range(weight.rank) if a != column).expanded(column, len(numbers)).zero.flatten()
    )
    left = [replace(one, slots=one.slots[~silent.numpy()[one.slots]]) for one in refused]
    return numbers.masked_fill(silent, 0.0), [one for one in left if len(one.slots)]


def _response(layer: Contraction, scope: Scope) -> torch.Tensor | None:
    """What the constants that go contribute to each output that stays; None if that is nothing."""
    numbers, _ = _heard(layer, scope)
    if not bool(numbers.any()) or scope.is_zeroed(layer.weight, 1):
        return None
    stored = scope.stored(layer.weight)
    assert stored is not None
    sums = layer.response(numbers.to(stored.device), stored.contiguous())
    kept = scope.kept(layer.weight, 0)
    return sums if kept is None else sums[torch.from_numpy(kept)]


@treats("matmul mm bmm mv dot vdot addmm baddbmm")
class Product(Treatment):
    """A · B summed over the last axis of A and the last but one of B; with a bias in front for addmm and baddbmm."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """A row of zeros in A, or a column of zeros in B, gives zeros, and the bias."""
        a, b = (d for d in operands[-2:])
        result = node.results[0]
        assert a is not None and b is not None
        if a.rank > 1 and b.rank == 1 and len(operands) == 2:
            zero = a.zero.all(-1) | b.zero.all()
            return [where_known(result, torch.zeros_like(zero, dtype=torch.float64), zero)]
        if min(a.rank, b.rank) < 2:
            return [unknown(result)]
        rows, columns = a.zero.all(-1, keepdim=True), b.zero.all(-2, keepdim=True)
        first, second = harmonized([Dead(rows, rows), Dead(columns, columns)])
        zero = first.known | second.known
        if len(operands) == 2:
            return [where_known(result, torch.zeros_like(zero, dtype=torch.float64), zero)]
        bias = operands[0]
        assert bias is not None
        return [where_known(result, bias.values * float(node.attributes.get("beta", 1)), bias.known & zero)]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """A slot may go if it is zero on one side, or a constant on one and stored on the other."""
        a, b = node.operands[-2:]
        assert a is not None and b is not None
        bad: set[int] | None = None
        for value, other in ((a, b), (b, a)):
            axis = _summed(value, a)
            if scope.kept(value, axis) is None:
                return
            numbers, refused = scope.entering(node, value, axis)
            varying = {int(s) for r in refused for s in r.slots}
            stays = varying if scope.stored(other) is not None else varying | {int(s) for s in numbers.nonzero()}
            bad = stays if bad is None else bad & stays
        if bad:
            value, axis = (a, _summed(a, a)) if scope.stored(a) is None else (b, _summed(b, a))
            reason = "it is neither zero nor a constant times a stored number"
            yield Refusal(value, axis, np.array(sorted(bad)), node, reason)

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """What the constants contribute is added."""
        result = editor.again(node).results[0]
        shift = _product_of_constants(node, editor.scope)
        return [result if shift is None else editor.plus(result, shift)]


def _summed(value: Value, first: Value) -> int:
    rank = len(value.shape)
    return rank - 1 if value is first or rank == 1 else rank - 2


def _zeros(node: Node, value: Value, axis: int, scope: Scope) -> set[int]:
    """The slots that go and are known to be zero."""
    numbers, refused = scope.entering(node, value, axis)
    if value.constant is not None and scope.is_zeroed(value, axis):
        return {int(s) for s in scope.removed(value, axis)}
    unknown_slots = {int(s) for r in refused for s in r.slots}
    return {int(s) for s in scope.removed(value, axis) if numbers[s] == 0} - unknown_slots


def _product_of_constants(node: Node, scope: Scope) -> torch.Tensor | None:
    """Σ over the slots that go, of a constant on one side and a stored tensor on the other."""
    a, b = node.operands[-2:]
    assert a is not None and b is not None
    for value, other in ((a, b), (b, a)):
        axis, across = _summed(value, a), _summed(other, a)
        stored = scope.stored(other)
        if stored is None:
            continue
        numbers, _ = scope.entering(node, value, axis)
        numbers[list(_zeros(node, other, across, scope))] = 0
        if bool(numbers.any()):
            stored = scope.left(other, stored, but=across).double()
            vector = numbers.to(stored.device)
            if stored.dim() == 1:
                shift = vector @ stored
            else:
                shift = vector.unsqueeze(0) @ stored if value is a else stored @ vector.unsqueeze(1)
            return shift * float(node.attributes.get("alpha", 1))
    return None


@treats("transformers.grouped_mm_fallback")
class Experts(Treatment):
    """Each row of a matrix by one of several matrices."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """A column that is zero in all matrices gives zeros."""
        weight = operands[1]
        assert weight is not None
        zero = weight.zero.all(0).all(0, keepdim=True)
        return [where_known(node.results[0], torch.zeros_like(zero, dtype=torch.float64), zero)]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Inputs that are not zero: there is no bias to take them."""
        value = first_operand(node)
        numbers, refused = scope.entering(node, value, 1)
        yield from refused
        yield from nonzero(node, value, 1, numbers, "there is no bias to fold its constant into")


@treats("einsum")
class Einsum(Treatment):
    """Sums of products by labels."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """Zero where an operand is zero along all labels that are summed."""
        result = node.results[0]
        labels = _labels(node)
        known = torch.zeros([1] * len(result.shape), dtype=torch.bool)
        for dead, own in zip(operands, labels[0]):
            assert dead is not None
            if "." not in labels[1]:
                zero = dead.zero
                for axis, label in enumerate(own):
                    if label not in labels[1]:
                        zero = zero.all(axis, keepdim=True)
                known = known | _placed(zero, own, labels[1])
        return [where_known(result, torch.zeros_like(known, dtype=torch.float64), known)]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """A slot that is summed may go if some operand is zero there."""
        inputs, output = _labels(node)
        for value, own in zip(node.operands, inputs):
            assert value is not None
            for axis in scope.axes(value):
                if own[axis] in output:
                    continue
                bad = {int(s) for s in scope.removed(value, axis)}
                for other, labels in zip(node.operands, inputs):
                    if other is not None and own[axis] in labels:
                        bad -= _zeros(node, other, labels.index(own[axis]), scope)
                if bad:
                    yield Refusal(value, axis, np.array(sorted(bad)), node, "no factor of the sum is zero there")


def _labels(node: Node) -> tuple[list[str], str]:
    """The labels of the operands' axes, and of the result's; an ellipsis becomes one dot an axis."""
    left, _, right = node.attributes["equation"].replace(" ", "").partition("->")
    result = len(node.results[0].shape)
    inputs = [
        labels.replace("...", "." * (len(value.shape) - len(labels) + 3))
        for labels, value in zip(left.split(","), node.operands)
        if value is not None
    ]
    if "->" not in node.attributes["equation"]:
        joined = "".join(inputs)
        right = "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return inputs, right.replace("...", "." * (result - len(right) + 3))


def _placed(zero: torch.Tensor, own: str, output: str) -> torch.Tensor:
    """An operand's axes in the order of the result's; those that it lacks have size 1."""
    kept = [a for a, label in enumerate(own) if label in output]
    zero = zero.squeeze([a for a in range(len(own)) if a not in kept])
    order = sorted(range(len(kept)), key=lambda i: output.index(own[kept[i]]))
    present = {own[a] for a in kept}
    sizes = iter(zero.permute(order).shape)
    return zero.permute(order).reshape([next(sizes) if label in present else 1 for label in output])
