"""Operators that join tensors and take them apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.pruning.rewrite.dead import Dead, unknown
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope, size
from graphopt.passes.pruning.rewrite.shapes import OneOperand
from graphopt.passes.pruning.rewrite.table import Treatment, treats
from graphopt.passes.support.evaluation import evaluate

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor


@treats("cat concat concatenate stack")
class Joined(Treatment):
    """Tensors one after another along an axis, which may be new."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """Each part written out along the axis."""
        parts = [d for d in operands if d is not None]
        result = node.results[0]
        if not any(d.anything for d in parts) or len(parts) != len(node.operands):
            return [unknown(result)]
        axis = axis_of(node, len(result.shape))
        if node.op.base == "aten.stack":
            parts = [d.through(lambda t: t.unsqueeze(axis)) for d in parts]
        else:
            parts = _written_out(node, parts, axis)
        for other in range(len(result.shape)):
            if other != axis and len({d.values.shape[other] for d in parts} - {1}) > 1:
                parts = [d.collapsed([other]) for d in parts]
        shape = [max(sizes) for sizes in zip(*[d.values.shape for d in parts])]
        parts = [_spread(d, shape, axis) for d in parts]
        values = torch.cat([d.values for d in parts], axis)
        return [Dead(values, torch.cat([d.known for d in parts], axis)).compact()]


def _written_out(node: Node, parts: list[Dead], axis: int) -> list[Dead]:
    """Parts with all their slots along the axis; those of symbolic sizes are one slot each if all are alike."""
    sizes = [v.shape[axis] for v in node.operands if v is not None]
    if all(isinstance(s, int) for s in sizes):
        return [d.expanded(axis, s) for d, s in zip(parts, sizes)]
    parts = [d.collapsed([axis]) for d in parts]
    first = parts[0]
    agree = first.known
    for part in parts[1:]:
        agree = agree & part.known & (part.values == first.values)
    return [Dead(first.values.expand(agree.shape), agree)]


def _spread(part: Dead, shape: Sequence[int], axis: int) -> Dead:
    wanted = [part.values.shape[a] if a == axis else s for a, s in enumerate(shape)]
    return part.through(lambda t: t.expand(wanted))


def axis_of(node: Node, rank: int) -> int:
    """The axis that a node names, counted from the front."""
    return int(node.attributes["dim"]) % max(rank, 1)


class Parted(OneOperand):
    """Operators that cut along one axis."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Run the operator along the axis, if anything differs along it."""
        operand = node.operands[0]
        assert operand is not None
        axis = axis_of(node, len(operand.shape))
        if node.attributes.symbols or not isinstance(operand.shape[axis], int):
            x = x.collapsed([axis])
        if x.values.shape[axis] == 1:
            return self.whole(node, x, axis)
        x = x.expanded(axis, size(operand, axis))
        return [Dead(v, k).compact() for v, k in zip(evaluate(node, [x.values]), evaluate(node, [x.known]))]

    def whole(self, node: Node, x: Dead, axis: int) -> Sequence[Dead]:
        """Nothing differs along the axis."""
        return [x] * len(node.results)


@treats("split unsafe_split split_with_sizes unsafe_split_with_sizes chunk tensor_split")
class Split(Parted):
    """Parts of an axis, whose sizes follow from what is left of them."""

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Name the sizes if the axis has lost slots."""
        operand = node.operands[0]
        assert operand is not None
        axis = axis_of(node, len(operand.shape))
        if editor.scope.kept(operand, axis) is None:
            return editor.again(node).results
        sizes = tuple(editor.shape(result)[axis] for result in node.results)
        return editor.create_all("aten.split_with_sizes", editor.value(operand), sizes, axis)


@treats("unbind select slice narrow")
class Sliced(Parted):
    """Some slots of an axis, by index."""

    def whole(self, node: Node, x: Dead, axis: int) -> Sequence[Dead]:
        """The axis stays, or goes."""
        if node.op.base in ("aten.slice", "aten.narrow"):
            return [x]
        return [x.through(lambda t: t.squeeze(axis))] * len(node.results)

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """The same slots, where they are now."""
        operand = node.operands[0]
        assert operand is not None
        axis = axis_of(node, len(operand.shape))
        kept = editor.scope.kept(operand, axis)
        if kept is None:
            return editor.again(node).results
        slots = evaluate(node, [_ramp(operand, axis)])
        if node.op.base == "aten.select":
            return editor.again(node, index=int(np.searchsorted(kept, int(slots[0])))).results
        if node.op.base == "aten.unbind":
            return editor.again(node).results
        source = slots[0].flatten().numpy()
        left = editor.scope.kept(node.results[0], axis)
        source = source if left is None else source[left]
        return [editor.taken(editor.value(operand), axis, np.searchsorted(kept, source))]


def _ramp(operand: Value, axis: int) -> torch.Tensor:
    """The slot numbers along an axis, all other axes of size 1."""
    shape = [1] * len(operand.shape)
    shape[axis] = size(operand, axis)
    return torch.arange(shape[axis]).reshape(shape)


@treats("index_select index _unsafe_index")
class Looked(Treatment):
    """Slots by an index."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """The slots, if the index is a stored vector; else what holds along the whole of the axes that are indexed."""
        x, operand = operands[0], node.operands[0]
        if x is None or operand is None or not x.anything or _is_mask(node):
            return [unknown(node.results[0])]
        found = _lookup(node)
        if found is None or found[1] is None or x.values.shape[found[0]] == 1:
            return [_anywhere(node, x)]
        axis, index = found
        assert index is not None
        return [x.expanded(axis, size(operand, axis)).through(lambda t: t.index_select(axis, index)).compact()]

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """The same slots, where they are now."""
        found = _lookup(node)
        operand = node.operands[0]
        assert operand is not None
        kept = None if found is None else editor.scope.kept(operand, found[0])
        if found is None or kept is None:
            return editor.again(node).results
        axis, index = found
        assert index is not None
        left = editor.scope.kept(node.results[0], axis)
        source = index.numpy() if left is None else index.numpy()[left]
        return [editor.taken(editor.value(operand), axis, np.searchsorted(kept, source))]


def _indices(node: Node) -> list[tuple[int, Value]]:
    """The indices, each with its axis."""
    operand = node.operands[0]
    assert operand is not None
    if node.op.base == "aten.index_select":
        index = node.operands[1]
        assert index is not None
        return [(axis_of(node, len(operand.shape)), index)]
    return [(axis, index) for axis, index in enumerate(node.operands[1:]) if index is not None]


def _is_mask(node: Node) -> bool:
    return any(index.dtype.torch is torch.bool for _, index in _indices(node))


def _anywhere(node: Node, x: Dead) -> Dead:
    """What holds along the whole of the axes that are indexed; the index's axes stand in their place, or in front."""
    axes = [axis for axis, _ in _indices(node)]
    x = x.collapsed(axes)
    shape = [x.values.shape[a] for a in range(x.rank) if a not in axes]
    neighbours = axes[-1] - axes[0] + 1 == len(axes)
    place = axes[0] if neighbours else 0
    new = [1] * (len(node.results[0].shape) - len(shape))
    return x.through(lambda t: t.reshape([*shape[:place], *new, *shape[place:]]))


def _lookup(node: Node) -> tuple[int, torch.Tensor | None] | None:
    """The axis that a vector indexes, and the vector if it is stored; None for any other indexing."""
    operand, present = node.operands[0], _indices(node)
    assert operand is not None
    if len(present) != 1:
        return None
    axis, vector = present[0]
    if not isinstance(vector.type, TensorType) or vector.type.rank != 1:
        return None
    if vector.type.dtype.torch not in (torch.int64, torch.int32):
        return None
    return axis, None if vector.constant is None else _positive(vector, operand, axis)


def _positive(vector: Value, operand: Value, axis: int) -> torch.Tensor | None:
    length = operand.shape[axis]
    if not isinstance(length, int):
        return None
    assert vector.constant is not None
    tensor = vector.constant.tensor.detach().cpu().long()
    return torch.where(tensor < 0, tensor + length, tensor)


@treats("roll")
class Rolled(OneOperand):
    """Slots shifted in a circle."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Run the operator; along axes of size 1 nothing moves."""
        if not node.attributes["dims"]:
            return [x.collapsed(range(x.rank))]
        return [x.through(lambda t: evaluate(node, [t])[0])]

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Shifts along axes that lost slots become look-ups."""
        operand, result = node.operands[0], node.results[0]
        assert operand is not None
        value, shifts, dims = editor.value(operand), [], []
        for shift, dim in zip(node.attributes["shifts"], node.attributes["dims"]):
            axis = dim % len(operand.shape)
            kept, left = editor.scope.kept(operand, axis), editor.scope.kept(result, axis)
            if kept is None or left is None:
                shifts.append(shift)
                dims.append(axis)
            else:
                source = (left - shift) % size(operand, axis)
                value = editor.taken(value, axis, np.searchsorted(kept, source))
        return [editor.create("aten.roll", value, shifts, dims) if dims else value]


@treats("pad constant_pad_nd")
class Padded(OneOperand):
    """Slots added at the ends, or cut off."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Along an axis on which nothing differs, the padding must be what is there already."""
        number = padding_number(node)
        operand = node.operands[0]
        assert operand is not None
        for axis, pair in padded_axes(node):
            if any(not isinstance(p, int) or p != 0 for p in pair):
                x = self._padded(x, operand, axis, pair, number)
        return [x.compact()]

    def _padded(self, x: Dead, operand: Value, axis: int, pair: tuple[Any, Any], number: float | None) -> Dead:
        length = operand.shape[axis]
        if x.values.shape[axis] == 1 or number is None or not all(isinstance(p, int) for p in (length, *pair)):
            x = x.collapsed([axis])
            return x if number is None else Dead(x.values, x.known & (x.values == number))
        before_last = [0, 0] * (x.rank - 1 - axis)
        pads = [*before_last, *pair]
        x = x.expanded(axis, int(length))
        pad = torch.nn.functional.pad
        return Dead(pad(x.values, pads, value=number), pad(x.known, pads, value=True))


def padding_number(node: Node) -> float | None:
    """The number that is padded with; None where the padding repeats what is there."""
    if node.attributes.get("mode", "constant") != "constant":
        return None
    number = node.attributes.get("value", 0)
    return 0.0 if number is None else float(number)


def padded_axes(node: Node) -> list[tuple[int, tuple[Any, Any]]]:
    """The axes that are padded, with the sizes before and after."""
    operand = node.operands[0]
    assert operand is not None
    pads, last = node.attributes["pad"], len(operand.shape) - 1
    return [(last - i // 2, (pads[i], pads[i + 1])) for i in range(0, len(pads), 2)]


@treats("glu")
class Gated(OneOperand):
    """a · σ(b) for the two halves of an axis."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """0 · σ(b) = 0."""
        operand = node.operands[0]
        assert operand is not None
        axis = axis_of(node, len(operand.shape))
        if x.values.shape[axis] > 1:
            x = x.expanded(axis, size(operand, axis))
            a, b = (Dead(v, k) for v, k in zip(x.values.chunk(2, axis), x.known.chunk(2, axis)))
        else:
            a = b = x
        return [Dead(a.values * b.values.sigmoid(), (a.known & b.known) | a.zero).compact()]


@treats("select_scatter slice_scatter diagonal_scatter index_copy index_add")
class Overwritten(Treatment):
    """Slots along one axis overwritten, or added to, by those of another tensor."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """What both are, along whole axes; sums are known of zeros."""
        result, source = node.results[0], operands[-1]
        x = operands[0]
        if x is None or source is None or "dim" not in node.attributes:
            return [unknown(result)]
        axis = axis_of(node, x.rank)
        x = x.collapsed([axis])
        if source.rank < x.rank:
            source = source.through(lambda t: t.unsqueeze(axis))
        source = source.collapsed([axis])
        known = x.known & source.known & (x.values == source.values)
        if node.op.base == "aten.index_add":
            known = x.zero & source.zero
        return [Dead(x.values.expand(known.shape), known).compact()]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """The axis itself must stay."""
        value = node.operands[0]
        assert value is not None
        axes = [axis_of(node, len(value.shape))] if "dim" in node.attributes else scope.axes(value)
        for axis in axes:
            removed = scope.removed(value, axis)
            if len(removed):
                yield Refusal(value, axis, removed, node, f"{node.op.name} counts slots")


@treats("gather take_along_dim")
class Gathered(Treatment):
    """Along one axis, the slots that an index of the same rank says."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """What is the same along the axis."""
        x = operands[0]
        if x is None or node.attributes.get("dim") is None:
            return [unknown(node.results[0])]
        return [x.collapsed([axis_of(node, x.rank)])]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """The axis itself must stay."""
        value = node.operands[0]
        assert value is not None
        axes = [axis_of(node, len(value.shape))] if node.attributes.get("dim") is not None else scope.axes(value)
        for axis in axes:
            removed = scope.removed(value, axis)
            if len(removed):
                yield Refusal(value, axis, removed, node, f"{node.op.name} looks slots up by number")
