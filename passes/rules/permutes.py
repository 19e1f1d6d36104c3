"""Permutations of dims: permute, transpose, t and the like are one operation, a permutation p of the axes.

Result axis i is source axis p[i]. A permutation q of a result of p is, of the source, i ↦ p[q[i]]:

    permute_q(permute_p(x)) → permute_{p∘q}(x)          the identity disappears
    permute_q(f(permute_p(x))) → f(permute_{p∘q}(x))     f elementwise
    f(permute_p(x), permute_p(y)) → permute_p(f(x, y))   f elementwise: one permutation in place of two

Bitwise: elements move, none is computed, and f rounds correctly (`is_exact`); other f are moved by rules that
reassociate. The normal form is `transpose` with 0 ≤ dim0 < dim1 where two axes swap,
`permute` otherwise.
"""

from __future__ import annotations

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dim_ops import product
from graphopt.ir.dims import Dim, known_equal, shapes_known_equal
from graphopt.passes.rules.conditions import is_exact
from graphopt.passes.rules.reshapes import RESHAPE_NAMES, is_reshape, through_unary, unary_value
from graphopt.passes.support.rebuild import with_first_operand
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, produced_by, var
from graphopt.rewrite.rule import Replacement

Permutation = tuple[int, ...]
_NAMES = (
    "permute",
    "transpose.int",
    "t",
    "swapaxes",
    "swapdims",
    "numpy_T",
    "mT",
    "movedim.int",
    "movedim.intlist",
)
PERMUTES = frozenset(f"aten.{name.partition('.')[0]}" for name in _NAMES)
x = var("x")


def permutation(node: Node) -> Permutation | None:
    """The permutation of axes that a node applies, or None if it is no permutation."""
    if node.op.base not in PERMUTES:
        return None
    source = node._operands[0]
    if source is None or not isinstance(source.type, TensorType):
        return None
    rank = len(source.type.shape)
    attributes = node.attributes
    base = node.op.base
    if base == "aten.transpose":
        return _swapped(rank, attributes["dim0"], attributes["dim1"])
    if base == "aten.permute":
        return tuple(d % rank for d in attributes["dims"]) if rank else ()
    if base in ("aten.t", "aten.numpy_T"):
        return tuple(reversed(range(rank)))
    if base == "aten.mT":
        return _swapped(rank, -2, -1)
    if base == "aten.movedim":
        return _moved(rank, attributes["source"], attributes["destination"])
    first, second = list(attributes.values())[:2]
    return _swapped(rank, first, second)


def _swapped(rank: int, first: int, second: int) -> Permutation:
    axes = list(range(rank))
    if rank:
        axes[first], axes[second] = axes[second], axes[first]
    return tuple(axes)


def _moved(rank: int, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Permutation:
    sources = [d % rank for d in (source if isinstance(source, tuple) else (source,))]
    targets = [d % rank for d in (destination if isinstance(destination, tuple) else (destination,))]
    placed = dict(zip(targets, sources))
    rest = iter(axis for axis in range(rank) if axis not in sources)
    return tuple(placed[i] if i in placed else next(rest) for i in range(rank))


def compose(inner: Permutation, outer: Permutation) -> Permutation:
    """`outer` applied to the result of `inner`, as one permutation of the source."""
    return tuple([inner[axis] for axis in outer])


def is_identity(axes: Permutation) -> bool:
    """True if nothing moves."""
    return axes == tuple(range(len(axes)))


def permuted(source: Value | None, axes: Permutation, rewriter: Rewriter) -> Value:
    """`source` with its axes permuted, in normal form: itself if nothing moves."""
    assert source is not None
    moved = [axis for axis in range(len(axes)) if axes[axis] != axis]
    if not moved:
        return source
    if len(moved) == 2:
        return rewriter.create("aten.transpose.int", source, moved[0], moved[1]).result
    return rewriter.create("aten.permute", source, axes).result


def _is_normal(node: Node) -> bool:
    attributes = node.attributes
    if node.op.name == "aten.transpose.int":
        return bool(0 <= attributes["dim0"] < attributes["dim1"])
    if node.op.name != "aten.permute":
        return False
    dims = attributes["dims"]
    return min(dims, default=0) >= 0 and sum(axis != source for axis, source in enumerate(dims)) > 2


class NormalPermute(Rule):
    """A permutation in its normal form; the identity goes."""

    name = "normal-permute"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name)(x, ...) for name in _NAMES)

    def guard(self, match: Match) -> bool:
        """It is not there yet."""
        return not _is_normal(match.root) and permutation(match.root) is not None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create the normal form."""
        axes = permutation(match.root)
        assert axes is not None
        return permuted(match["x"], axes, rewriter)


class MergePermutes(Rule):
    """Two permutations become one, or none."""

    name = "merge-permutes"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name)(produced_by(PERMUTES, "inner"), ...) for name in _NAMES)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Apply the composition to the source."""
        inner, outer = permutation(match.node("inner")), permutation(match.root)
        assert inner is not None and outer is not None
        return permuted(match.node("inner").operands[0], compose(inner, outer), rewriter)


class PermuteUnitDims(Rule):
    """A permutation that moves dims of size 1 only is a reshape."""

    name = "permute-unit-dims"
    contract = Contract.BITWISE
    pattern = (aten.permute(x, ...), aten.transpose.int(x, ...))

    def guard(self, match: Match) -> bool:
        """The other axes keep their order."""
        shape = match["x"].type.shape
        if 1 not in shape:
            return False
        axes = permutation(match.root)
        assert axes is not None
        kept = [axis for axis in axes if shape[axis] != 1]
        return kept == sorted(kept)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Reshape."""
        return rewriter.create("aten.reshape", match["x"], match.root.results[0].shape).result


class PermuteThroughUnary(Rule):
    """A permutation behind elementwise nodes that round correctly meets the permutation before them."""

    name = "permute-through-unary"
    contract = Contract.BITWISE
    exact = True
    pattern = tuple(getattr(aten, name)(var("y", unary_value), ...) for name in _NAMES)

    def guard(self, match: Match) -> bool:
        """The walk ends at a permutation; one node fewer is left."""
        top, walked = through_unary(match["y"])
        if top is None or top.op.base not in PERMUTES or all(map(is_exact, walked)) is not self.exact:
            return False
        inner, outer = permutation(top), permutation(match.root)
        if inner is None or outer is None:
            return False
        return len(top.results[0]._uses) == 1 or is_identity(compose(inner, outer))

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Permute first, then compute."""
        top, walked = through_unary(match["y"])
        assert top is not None
        inner, outer = permutation(top), permutation(match.root)
        assert inner is not None and outer is not None
        value = permuted(top.operands[0], compose(inner, outer), rewriter)
        for node in reversed(walked):
            value = with_first_operand(node, value, rewriter)
        return value


class PermuteThroughFunction(PermuteThroughUnary):
    """The same for other functions."""

    name = "permute-through-function"
    contract = Contract.REASSOCIATING
    exact = False


_BINARY = ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "maximum", "minimum")


class SinkPermutes(Rule):
    """An elementwise node on two operands permuted alike is permuted itself."""

    name = "sink-permutes"
    contract = Contract.BITWISE
    pattern = tuple(
        getattr(aten, name)(produced_by(PERMUTES, "left"), produced_by(PERMUTES, "right"), ...) for name in _BINARY
    )

    def guard(self, match: Match) -> bool:
        """The same permutation on both sides, and a node fewer afterwards."""
        left, right = match.node("left"), match.node("right")
        if permutation(left) != permutation(right) or not is_exact(match.root):
            return False
        uses = {use.node for node in (left, right) for use in node.results[0]._uses}
        return uses == {match.root}

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Compute first, then permute."""
        left, right = match.node("left"), match.node("right")
        axes = permutation(left)
        assert axes is not None
        value = rewriter.rebuild(match.root, (left.operands[0], right.operands[0])).result
        return permuted(value, axes, rewriter)


class PermuteMergedDims(Rule):
    """reshape(permute(reshape(x))) → permute(reshape(x)), where the last reshape splits dims only.

    So exporters transpose the last two of four dims: by way of three. Often no reshape is left.
    """

    name = "permute-merged-dims"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name)(produced_by(PERMUTES, "permute").once, ...) for name in RESHAPE_NAMES)

    def guard(self, match: Match) -> bool:
        """A reshape that nothing else uses comes first, and each dim is a product of neighbours at the end."""
        merged = match.node("permute")._operands[0]
        merge = merged.producer if merged is not None and len(merged._uses) == 1 else None
        return merge is not None and is_reshape(merge) and is_reshape(match.root) and self._split(match) is not None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Split first, then permute."""
        merged = match.node("permute")._operands[0]
        split = self._split(match)
        assert merged is not None and merged.producer is not None and split is not None
        shape, axes = split
        source = merged.producer._operands[0]
        assert source is not None and isinstance(source.type, TensorType)
        if not shapes_known_equal(source.type.shape, shape):
            source = rewriter.create("aten.reshape", source, shape).result
        return permuted(source, axes, rewriter)

    def _split(self, match: Match) -> tuple[tuple[Dim, ...], Permutation] | None:
        """The shape to split to before the permutation, and the permutation of the parts."""
        node, result = match.node("permute"), match.root.results[0]
        order = permutation(node)
        assert isinstance(result.type, TensorType)
        groups = merged_dims(result.type.shape, node.results[0].type.shape)  # type: ignore[union-attr]
        if groups is None or order is None:
            return None
        parts = [axis for source in range(len(order)) for axis in groups[order.index(source)]]
        axes = tuple(parts.index(axis) for axis in range(len(parts)))
        return tuple(result.type.shape[axis] for axis in parts), axes


def merged_dims(shape: tuple[Dim, ...], merged: tuple[Dim, ...]) -> list[range] | None:
    """Which dims of `shape` make up each of `merged`, if each of these is a product of neighbours, or of none; else
    None."""
    groups, start = [], 0
    for size in merged:
        if size == 1 and (start >= len(shape) or shape[start] != 1):
            groups.append(range(start, start))
            continue
        stop = start + 1
        while stop < len(shape) and not known_equal(product(shape[start:stop]), size):
            stop += 1
        if start >= len(shape) or not known_equal(product(shape[start:stop]), size):
            return None
        groups.append(range(start, stop))
        start = stop
    return groups if start == len(shape) else None


RULES: tuple[Rule, ...] = (
    NormalPermute(),
    PermuteMergedDims(),
    MergePermutes(),
    PermuteUnitDims(),
    PermuteThroughUnary(),
    PermuteThroughFunction(),
    SinkPermutes(),
)
