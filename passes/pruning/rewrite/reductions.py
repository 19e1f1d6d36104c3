"""Reductions over axes, pooling, interpolation, and operators along one axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from graphopt.ir import Node, Value
from graphopt.passes.pruning.rewrite.contractions import first_operand, nonzero
from graphopt.passes.pruning.rewrite.dead import Dead, unknown
from graphopt.passes.pruning.rewrite.scope import Refusal, Scope, size
from graphopt.passes.pruning.rewrite.shapes import OneOperand
from graphopt.passes.pruning.rewrite.table import Treatment, treats

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor


def reduced_axes(node: Node) -> list[int]:
    """The axes that a reduction sums over, from the front; all of them if it names none."""
    rank = len(first_operand(node).shape)
    named = node.attributes.get("dim")
    if named is None or named == ():
        return list(range(rank))
    dims = (named,) if isinstance(named, int) else named
    return sorted({d % max(rank, 1) for d in dims}) if rank else []


class Reduction(OneOperand):
    """A reduction whose result, of a constant, is known."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """The reduction of what agrees along all its axes."""
        axes = reduced_axes(node)
        x = self.of_constant(node, x.collapsed(axes), axes)
        if not node.attributes.get("keepdim", False):
            x = x.through(lambda t: t.squeeze(axes))
        return [x, *[unknown(r) for r in node.results[1:]]]

    def of_constant(self, node: Node, x: Dead, axes: Sequence[int]) -> Dead:
        """The result where all that is reduced is one number."""
        return x

    def lost(self, node: Node, scope: Scope) -> list[int]:
        """The reduced axes that lose slots."""
        axes = reduced_axes(node)
        return [axis for axis in scope.axes(node.operands[0]) if axis in axes]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Slots that are no constant, or not one that the result can be corrected for."""
        value, lost = first_operand(node), self.lost(node, scope)
        for axis in lost:
            if node.op.base not in CORRECTED:
                yield Refusal(value, axis, scope.removed(value, axis), node, f"{node.op.name} needs all slots")
                continue
            numbers, refused = scope.entering(node, value, axis)
            yield from refused
            if len(lost) > 1 or not self.adds(node):
                reason = f"{node.op.name} is not corrected for a constant that is not zero"
                yield from nonzero(node, value, axis, numbers, reason)

    def adds(self, node: Node) -> bool:
        """Whether constants that are not zero add a number to the result."""
        return False

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """The reduction of what is left, corrected."""
        result = editor.again(node).results
        lost = self.lost(node, editor.scope)
        return self.corrected(node, editor, result[0], lost) if lost else result

    def corrected(self, node: Node, editor: Editor, result: Value, lost: Sequence[int]) -> Sequence[Value]:
        """The result as if the slots that went were still there."""
        return [result]


@treats("mean")
class Mean(Reduction):
    """Σ x / n: the sum over what is left, by the number of all."""

    def adds(self, node: Node) -> bool:
        """Σ c / n."""
        return True

    def corrected(self, node: Node, editor: Editor, result: Value, lost: Sequence[int]) -> Sequence[Value]:
        """n'/n times the mean of what is left, plus the constants."""
        value, share, total = first_operand(node), 1.0, 0.0
        for axis in lost:
            numbers, _ = editor.scope.entering(node, value, axis)
            total += float(numbers.sum()) / size(value, axis)
            share *= editor.length(value, axis) / size(value, axis)
        result = editor.create("aten.mul.Scalar", result, share)
        return [editor.create("aten.add.Scalar", result, total) if total else result]


@treats("sum")
class Sum(Reduction):
    """Σ x."""

    def of_constant(self, node: Node, x: Dead, axes: Sequence[int]) -> Dead:
        """As many times the number, if it is known how many."""
        count = self._count(node, axes)
        return Dead(x.values, x.zero) if count is None else Dead(x.values * count, x.known)

    def adds(self, node: Node) -> bool:
        """Σ c, if it is known how often each is summed."""
        return self._count(node, reduced_axes(node)) is not None

    def corrected(self, node: Node, editor: Editor, result: Value, lost: Sequence[int]) -> Sequence[Value]:
        """Plus the constants."""
        numbers, _ = editor.scope.entering(node, first_operand(node), lost[0])
        if not bool(numbers.any()):
            return [result]
        count = self._count(node, [a for a in reduced_axes(node) if a != lost[0]])
        assert count is not None
        return [editor.create("aten.add.Scalar", result, float(numbers.sum()) * count)]

    def _count(self, node: Node, axes: Sequence[int]) -> int | None:
        count = 1
        for axis in axes:
            length = first_operand(node).shape[axis]
            if not isinstance(length, int):
                return None
            count *= length
        return count


@treats("linalg_vector_norm norm")
class Norm(Reduction):
    """(Σ |x|ᵖ)^(1/p): zeros add nothing."""

    def of_constant(self, node: Node, x: Dead, axes: Sequence[int]) -> Dead:
        """0 of zeros."""
        return Dead(x.values, x.zero)


@treats("amax amin any all max.dim min.dim median nanmean logsumexp prod var std argmax argmin var_mean count_nonzero")
class Selected(Reduction):
    """Reductions that need all slots."""

    def of_constant(self, node: Node, x: Dead, axes: Sequence[int]) -> Dead:
        """The extremes of one number are that number; the others are not looked at."""
        same = node.op.base in ("aten.amax", "aten.amin", "aten.any", "aten.all")
        return x if same else Dead(x.values, torch.zeros_like(x.known))


CORRECTED = frozenset({"aten.mean", "aten.sum", "aten.linalg_vector_norm", "aten.norm"})


class Spatial(OneOperand):
    """Operators on the last axes that keep channels apart."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """What is constant over the last axes stays so."""
        lead = 2 if x.rank > 2 else 1
        x = x.collapsed(range(lead, x.rank))
        return [self.kept(node, x), *[unknown(r) for r in node.results[1:]]]

    def kept(self, node: Node, x: Dead) -> Dead:
        """The constant that comes out."""
        return x

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """The last axes themselves must stay."""
        value = first_operand(node)
        lead = 2 if len(value.shape) > 2 else 1
        for axis in scope.axes(value):
            if axis >= lead:
                yield Refusal(value, axis, scope.removed(value, axis), node, f"{node.op.name} mixes neighbours")


@treats(
    "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices max_pool3d_with_indices adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "upsample_bilinear2d upsample_linear1d upsample_trilinear3d upsample_bicubic2d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
)
class Preserving(Spatial):
    """Weights that add up to one, or a maximum: a constant stays what it is."""


@treats("avg_pool1d avg_pool2d avg_pool3d")
class AveragePool(Spatial):
    """Sums over windows, by their size: padding counts as zeros."""

    def kept(self, node: Node, x: Dead) -> Dead:
        """Zeros, or without padding any constant."""
        padding = node.attributes.get("padding", 0)
        pads = padding != 0 and any(p != 0 for p in (padding if isinstance(padding, tuple) else (padding,)))
        counts = pads and node.attributes.get("count_include_pad", True)
        plain = not counts and node.attributes.get("divisor_override") is None
        return x if plain else Dead(x.values, x.zero)


@treats(
    "softmax softmin log_softmax _softmax _log_softmax _safe_softmax cumsum cumprod cummax cummin sort topk argsort "
    "kthvalue diff logcumsumexp renorm"
)
class AlongAxis(Treatment):
    """Operators along one axis, all of whose slots they need."""

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """The axis must stay."""
        value = first_operand(node)
        axis = int(node.attributes["dim"]) % max(len(value.shape), 1)
        removed = scope.removed(value, axis)
        if len(removed):
            yield Refusal(value, axis, removed, node, f"{node.op.name} needs all slots")


@treats("tril triu")
class Triangle(Treatment):
    """Zeros on one side of the diagonal of the last two axes, which must stay."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """Zeros stay zeros."""
        x = operands[0]
        assert x is not None
        x = x.collapsed((-1, -2))
        return [Dead(x.values, x.zero)]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """The positions along the diagonal would change."""
        value = first_operand(node)
        for axis in scope.axes(value):
            if axis >= len(value.shape) - 2:
                yield Refusal(value, axis, scope.removed(value, axis), node, f"{node.op.name} counts slots")


@treats("embedding")
class Embedding(Treatment):
    """Rows of a table."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """A column that is the same in all rows."""
        table = operands[0]
        assert table is not None
        column = table.collapsed([0])
        lead = len(node.results[0].shape) - 1
        return [column.through(lambda t: t.reshape([1] * lead + [-1]))]

    def refusals(self, node: Node, scope: Scope) -> Iterator[Refusal]:
        """Rows are looked up by number."""
        table = first_operand(node)
        removed = scope.removed(table, 0)
        if len(removed):
            yield Refusal(table, 0, removed, node, "rows of the table are looked up by number")
