"""Operators that rearrange axes: run on the small arrays, and given the sizes that are left."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dims import Dim, exact_div, known_equal, product
from graphopt.passes.pruning.rewrite.dead import Dead, unknown
from graphopt.passes.pruning.rewrite.scope import Scope
from graphopt.passes.pruning.rewrite.table import Treatment, treats
from graphopt.passes.support.evaluation import evaluate

if TYPE_CHECKING:
    from graphopt.passes.pruning.rewrite.editor import Editor


class OneOperand(Treatment):
    """A treatment of what is known of the first operand; nothing comes of nothing."""

    def dead(self, node: Node, operands: Sequence[Dead | None], scope: Scope) -> Sequence[Dead]:
        """See `moved`."""
        x = operands[0]
        if x is None or not x.anything:
            return [unknown(result) for result in node.results]
        return self.moved(node, x)

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """What is known of the results."""
        raise NotImplementedError


@treats("permute transpose swapaxes swapdims t mT numpy_T movedim moveaxis unsqueeze flip")
class Rearranged(OneOperand):
    """Operators that say nothing of sizes act on the small arrays as they do on tensors."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Run the operator."""
        return [x.through(lambda t: evaluate(node, [t])[0])]


@treats("squeeze")
class Squeezed(OneOperand):
    """Axes of size 1 go; those that become 1 by pruning stay."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Without the axes that go."""
        axes = _squeezed(node)
        return [x.collapsed(axes).through(lambda t: t.squeeze(tuple(axes)))]

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Name the axes, whatever the sizes are now."""
        return [editor.create("aten.squeeze.dims", editor.value(node.operands[0]), _squeezed(node))]


def _squeezed(node: Node) -> tuple[int, ...]:
    shape = _operand(node).shape
    asked = node.attributes.get("dim")
    dims = range(len(shape)) if asked is None else [asked] if isinstance(asked, int) else asked
    return tuple(axis for axis in sorted({d % max(len(shape), 1) for d in dims}) if shape and shape[axis] == 1)


@treats("reshape view _unsafe_view flatten unflatten")
class Reshaped(OneOperand):
    """Runs of axes that hold the same elements before and after are reshaped alone."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Write out the axes of a run that differ along it, reshape, and shrink again."""
        old, new = _operand(node).shape, node.results[0].shape
        shape: list[int] = []
        for before, after in runs(old, new):
            axes = range(*before)
            count = _static_part(old[slice(*before)])
            wide, sizes = _last_places(count, old[slice(*before)]), _last_places(count, new[slice(*after)])
            if all(x.values.shape[a] == 1 for a in axes) or wide is None or sizes is None:
                x, sizes = x.collapsed(axes), [1] * len(range(*after))
            else:
                x = _written_out(x, axes, wide)
            shape += sizes
        return [x.through(lambda t: t.reshape(shape)).compact()]

    def rebuild(self, node: Node, editor: Editor) -> Sequence[Value]:
        """Every size is given, but for those that stay symbolic."""
        result = node.results[0]
        if node.op.base == "aten.flatten":
            return editor.again(node).results
        if node.op.base == "aten.unflatten":
            return editor.again(node, sizes=_unflattened(node, editor)).results
        name = "shape" if "shape" in node.attributes else "size"
        changes: dict[str, Any] = {name: editor.size(result, node.attributes[name])}
        return editor.again(node, **changes).results


def _static_part(shape: Sequence[Dim]) -> int:
    """The greatest number that divides the number of elements, whatever the symbols are."""
    numel = product(shape)
    return numel if isinstance(numel, int) else gcd(*[coefficient for _, coefficient in numel.terms])


def _last_places(count: int, shape: Sequence[Dim]) -> list[int] | None:
    """Sizes of small arrays that hold the last `count` elements of each block: of an axis of size 4·B whose slots agree
    after every four, four. None if the axes don't divide like that.

    >>> _last_places(24, (2, 3, 4))
    [2, 3, 4]
    """
    sizes: list[int] = []
    for length in reversed(shape):
        fits = length if isinstance(length, int) else count
        if not fits or count % fits or exact_div(length, fits) is None:
            return None
        sizes.insert(0, fits)
        count //= fits
    return sizes if count == 1 else None


def _written_out(x: Dead, axes: Sequence[int], sizes: Sequence[int]) -> Dead:
    for axis, wanted in zip(axes, sizes):
        if wanted % x.values.shape[axis]:
            x = x.collapsed([axis])
        times = [1] * x.rank
        times[axis] = wanted // x.values.shape[axis]
        x = x.through(lambda t, times=times: t.repeat(times))  # type: ignore[misc]
    return x


def _unflattened(node: Node, editor: Editor) -> tuple[Dim, ...]:
    result, axis = node.results[0], node.attributes["dim"] % len(_operand(node).shape)
    shape = editor.shape(result)
    return shape[axis : axis + len(node.attributes["sizes"])]


Run = tuple[tuple[int, int], tuple[int, int]]


def runs(old: Sequence[Dim], new: Sequence[Dim]) -> list[Run]:
    """Cut two shapes of as many elements into the shortest runs of axes that hold as many elements.

    >>> runs((2, 12, 5), (2, 3, 4, 5))
    [((0, 1), (0, 1)), ((1, 2), (1, 3)), ((2, 3), (3, 4))]
    """
    found: list[Run] = []
    i = j = 0
    while i < len(old) or j < len(new):
        start, left, right = (i, j), product(old[i : i + 1]), product(new[j : j + 1])
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while not known_equal(left, right) and (i < len(old) or j < len(new)):
            if j == len(new) or (i < len(old) and exact_div(right, left) is not None):
                left, i = product((left, old[i])), i + 1
            else:
                right, j = product((right, new[j])), j + 1
        found.append(((start[0], i), (start[1], j)))
    return _without_empty(found)


def _without_empty(found: list[Run]) -> list[Run]:
    """Axes of size 1 at the end, for which the other side has none left, join the run before."""
    while len(found) > 1 and any(first == last for first, last in found[-1]):
        before, after = found.pop()
        found[-1] = ((found[-1][0][0], before[1]), (found[-1][1][0], after[1]))
    return found


@treats("expand broadcast_to expand_as")
class Expanded(OneOperand):
    """Copies along axes of size 1."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Nothing differs along the new axes."""
        lead = len(node.results[0].shape) - x.rank
        return [x.through(lambda t: t.reshape([1] * lead + list(t.shape)))]

    def attributes(self, node: Node, editor: Editor) -> dict[str, Any]:
        """The sizes that are left; -1 stays."""
        if "size" not in node.attributes:
            return {}
        return {"size": editor.size(node.results[0], node.attributes["size"])}


@treats("repeat")
class Repeated(OneOperand):
    """Copies one after another."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """Only along axes on which something differs do the copies show."""
        repeats = node.attributes["repeats"]
        lead = len(repeats) - x.rank
        x = x.through(lambda t: t.reshape([1] * lead + list(t.shape)))
        differing = [a for a in range(x.rank) if x.values.shape[a] > 1]
        x = x.collapsed(a for a in differing if not isinstance(repeats[a], int))
        times = [r if isinstance(r, int) and x.values.shape[a] > 1 else 1 for a, r in enumerate(repeats)]
        return [x.through(lambda t: t.repeat(times))]


@treats("repeat_interleave.self_int")
class Interleaved(OneOperand):
    """Each slot several times."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """The axis, if anything differs along it."""
        axis = node.attributes["dim"]
        if axis is None:
            return [unknown(node.results[0])]
        if x.values.shape[axis] == 1:
            return [x]
        return [x.through(lambda t: t.repeat_interleave(node.attributes["repeats"], axis))]


@treats("pixel_shuffle")
class PixelShuffled(OneOperand):
    """[…, C·r², H, W] → […, C, H·r, W·r]: what differs within a block of r × r is not the same for all pixels."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """The channels, where all r² of one agree."""
        square = node.attributes["upscale_factor"] ** 2
        channels = _operand(node).shape[-3]
        x = x.collapsed((-1, -2))
        if x.values.shape[-3] == 1:
            return [x]
        lead = x.values.shape[:-3]
        x = x.through(lambda t: t.reshape(*lead, channels // square, square, 1, 1)).collapsed((-3,))
        return [x.through(lambda t: t.squeeze(-3)).compact()]


@treats("pixel_unshuffle")
class PixelUnshuffled(OneOperand):
    """[…, C, H·r, W·r] → […, C·r², H, W]: each channel becomes r² neighbours."""

    def moved(self, node: Node, x: Dead) -> Sequence[Dead]:
        """The channels, r² times each."""
        square = node.attributes["downscale_factor"] ** 2
        x = x.collapsed((-1, -2))
        return [x if x.values.shape[-3] == 1 else x.through(lambda t: t.repeat_interleave(square, -3))]


def _operand(node: Node) -> Value:
    value = node.operands[0]
    assert value is not None and isinstance(value.type, TensorType)
    return value
