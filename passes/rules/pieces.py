"""Taking apart and putting together: cat, stack, split, chunk, unbind, slice, select.

    cat([x]) → x        cat(split(x)) → x        split(cat([x, y])) → x, y        slice(slice(x)) → slice(x)
    cat([cat([x, y]), z]) → cat([x, y, z])       slice(cat([x, y])) → slice(x), where it lies in x

All bitwise: elements are picked, none is computed. Positions must be known numbers; sizes may be symbolic as long as
they are known to be equal.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, TensorType, Value, types_known_equal
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, produced_by, var
from graphopt.rewrite.rule import Replacement

_SPLITS = ("split.Tensor", "split.sizes", "split_with_sizes", "chunk", "tensor_split.sections", "tensor_split.indices")
SPLITS = frozenset(f"aten.{name.partition('.')[0]}" for name in _SPLITS)
_JOINS = ("cat", "concat", "concatenate")
JOINS = frozenset(f"aten.{name}" for name in _JOINS)
x = var("x")
_LAST = (1 << 63) - 1


def _rank(value: Value) -> int:
    return value.type.rank if isinstance(value.type, TensorType) else 0


def _axis(node: Node, rank: int) -> int:
    """The dim that a node works along, counted from the front."""
    dim: int = node.attr("dim")
    return dim % rank if rank else 0


def _tensors(node: Node) -> Sequence[Value]:
    return [v for v in node._operands if v is not None]


class _Bitwise(Rule):
    contract = Contract.BITWISE


class CatOfOne(_Bitwise):
    """cat([x]) → x."""

    name = "cat-of-one"
    pattern = tuple(getattr(aten, name)(...) for name in _JOINS)

    def guard(self, match: Match) -> bool:
        """There is one piece."""
        return len(match.root._operands) == 1

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The piece itself."""
        return match.root.operands[0]


class StackOfOne(_Bitwise):
    """stack([x]) → unsqueeze(x)."""

    name = "stack-of-one"
    pattern = aten.stack(...)

    def guard(self, match: Match) -> bool:
        """There is one piece."""
        return len(match.root._operands) == 1

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Unsqueeze."""
        return rewriter.create("aten.unsqueeze", match.root.operands[0], match.root.attr("dim")).result


class CatDropEmpty(_Bitwise):
    """Pieces of size 0 add nothing."""

    name = "cat-drop-empty"
    pattern = tuple(getattr(aten, name)(...) for name in _JOINS)

    def guard(self, match: Match) -> bool:
        """Some pieces are empty along the dim, of the result's dtype and rank, and another piece is left."""
        return 0 < len(_full(match.root)) < len(match.root._operands)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Join the others."""
        root = match.root
        return rewriter.create(root.op, _full(root), dim=root.attr("dim")).result


def _full(node: Node) -> list[Value]:
    result = node.results[0]
    rank, dtype = _rank(result), result.dtype
    axis = _axis(node, rank)
    return [v for v in _tensors(node) if _rank(v) != rank or v.dtype is not dtype or v.shape[axis] != 0]


class NestedCat(_Bitwise):
    """cat([cat([x, y]), z]) → cat([x, y, z]), along one dim, where the inner cat has no other use."""

    name = "nested-cat"
    pattern = tuple(getattr(aten, name)(...) for name in _JOINS)

    def guard(self, match: Match) -> bool:
        """Some piece is such a cat."""
        root = match.root
        return any(self._joined(v, root) for v in root._operands)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Join all pieces at once."""
        root = match.root
        pieces: list[Value] = []
        for value in _tensors(root):
            producer = value.producer
            pieces += _tensors(producer) if producer is not None and self._joined(value, root) else [value]
        return rewriter.create(root.op, pieces, dim=root.attr("dim")).result

    @staticmethod
    def _joined(value: Value | None, root: Node) -> bool:
        if value is None or value.producer is None or value.producer.op.base not in JOINS:
            return False
        rank = _rank(value)
        same = rank == _rank(root.results[0]) and value.dtype is root.results[0].dtype
        return len(value._uses) == 1 and same and _axis(value.producer, rank) == _axis(root, rank)


class SplitOfOne(_Bitwise):
    """split(x) → x, into one piece."""

    name = "split-of-one"
    pattern = tuple(getattr(aten, name)(x, ...) for name in _SPLITS)

    def guard(self, match: Match) -> bool:
        """There is one piece, and it is all of x."""
        results = match.root.results
        return len(results) == 1 and types_known_equal(results[0].type, match["x"].type)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The source itself."""
        return match["x"]


class CatOfSplit(_Bitwise):
    """cat(split(x)) → x: all pieces, in order, along one dim. The same for stack and unbind."""

    name = "cat-of-split"
    pattern = (
        *(getattr(aten, name)(...) for name in _JOINS),
        aten.stack(...),
    )

    def guard(self, match: Match) -> bool:
        """All operands are all the results of one split."""
        root = match.root
        first = root._operands[0] if root._operands else None
        split = first.producer if first is not None else None
        inverses = {"aten.unbind"} if root.op.base == "aten.stack" else SPLITS
        if split is None or split.op.base not in inverses or tuple(root._operands) != split.results:
            return False
        source = split._operands[0]
        assert source is not None
        return _axis(split, _rank(source)) == _axis(root, _rank(source))

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The source of the split."""
        first = match.root.operands[0]
        assert first is not None and first.producer is not None
        return first.producer.operands[0]


class SplitOfCat(_Bitwise):
    """split(cat(xs)) → xs, where each part of the split is a piece of the cat. The same for unbind and stack."""

    name = "split-of-cat"
    pattern = (
        *(getattr(aten, name)(produced_by(JOINS, "join"), ...) for name in _SPLITS),
        aten.unbind.int(produced_by({"aten.stack"}, "join"), ...),
    )

    def guard(self, match: Match) -> bool:
        """One dim, and parts that match the pieces one by one."""
        root, join = match.root, match.node("join")
        rank = _rank(join.results[0])
        if _axis(root, rank) != _axis(join, rank) or len(root.results) != len(join._operands):
            return False
        return all(types_known_equal(r.type, v.type) for r, v in zip(root.results, _tensors(join)))

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The pieces."""
        return list(_tensors(match.node("join")))


def _slice_bounds(node: Node) -> tuple[int, int, int] | None:
    """Start, end and step of a slice whose start and end are known and not negative; the end may be `_LAST`."""
    start, end, step = node.attr("start"), node.attr("end"), node.attr("step")
    start = 0 if start is None else start
    end = _LAST if end is None else end
    if not all(isinstance(n, int) for n in (start, end, step)) or start < 0 or end < 0:
        return None
    return start, end, step


class MergeSlices(_Bitwise):
    """slice(slice(x)) → slice(x), along one dim: x[a:b:s][c:d:t] = x[a + cs : min(b, a + ds) : st]."""

    name = "merge-slices"
    pattern = aten.slice.Tensor(produced_by({"aten.slice"}, "inner"), ...)

    def guard(self, match: Match) -> bool:
        """One dim, and positions that are known and counted from the front."""
        inner, root = match.node("inner"), match.root
        rank = _rank(root.results[0])
        same = inner.op.name == root.op.name and _axis(inner, rank) == _axis(root, rank)
        return same and _slice_bounds(inner) is not None and _slice_bounds(root) is not None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Slice once."""
        inner, root = match.node("inner"), match.root
        first, second = _slice_bounds(inner), _slice_bounds(root)
        assert first is not None and second is not None
        (a, b, s), (c, d, t) = first, second
        end = b if d == _LAST else min(b, a + d * s, _LAST)
        source, dim = inner.operands[0], root.attr("dim")
        return rewriter.create("aten.slice.Tensor", source, dim, a + c * s, end, s * t).result


class SliceOfCat(_Bitwise):
    """slice(cat(xs)) → slice(xᵢ), where the slice lies in one piece."""

    name = "slice-of-cat"
    pattern = aten.slice.Tensor(produced_by(JOINS, "join"), ...)

    def guard(self, match: Match) -> bool:
        """One dim; the piece is found."""
        root, join = match.root, match.node("join")
        rank = _rank(join.results[0])
        return _axis(root, rank) == _axis(join, rank) and self._piece(match) is not None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Slice the piece."""
        found = self._piece(match)
        assert found is not None
        piece, start, end, step = found
        return rewriter.create("aten.slice.Tensor", piece, match.root.attr("dim"), start, end, step).result

    @staticmethod
    def _piece(match: Match) -> tuple[Value, int, int, int] | None:
        bounds = _slice_bounds(match.root)
        if bounds is None:
            return None
        start, end, step = bounds
        join = match.node("join")
        axis = _axis(join, _rank(join.results[0]))
        total = join.results[0].shape[axis]
        offset = 0
        for value in _tensors(join):
            size = value.shape[axis] if _rank(value) == _rank(join.results[0]) else None
            if not isinstance(size, int):
                return None
            stop = min(end, total) if isinstance(total, int) else end
            if offset <= start < offset + size:
                inside = start < stop <= offset + size
                return (value, start - offset, stop - offset, step) if inside else None
            offset += size
        return None


class SelectOfStack(_Bitwise):
    """select(stack(xs), i) → xᵢ."""

    name = "select-of-stack"
    pattern = aten.select.int(produced_by({"aten.stack"}, "stack"), ...)

    def guard(self, match: Match) -> bool:
        """One dim, and an index that is a number."""
        root, stack = match.root, match.node("stack")
        rank = _rank(stack.results[0])
        index = root.attributes.get("index")
        count = len(stack._operands)
        return _axis(root, rank) == _axis(stack, rank) and isinstance(index, int) and -count <= index < count

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The piece itself."""
        return match.node("stack").operands[match.root.attributes["index"]]


class SelectOfCat(_Bitwise):
    """select(cat(xs), i) → select(xⱼ, i − the sizes before xⱼ)."""

    name = "select-of-cat"
    pattern = aten.select.int(produced_by(JOINS, "join"), ...)

    def guard(self, match: Match) -> bool:
        """One dim; the piece is found."""
        root, join = match.root, match.node("join")
        rank = _rank(join.results[0])
        return _axis(root, rank) == _axis(join, rank) and self._piece(match) is not None

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Select from the piece."""
        found = self._piece(match)
        assert found is not None
        return rewriter.create("aten.select.int", found[0], match.root.attr("dim"), found[1]).result

    @staticmethod
    def _piece(match: Match) -> tuple[Value, int] | None:
        index = match.root.attributes.get("index")
        if not isinstance(index, int):
            return None
        join = match.node("join")
        rank = _rank(join.results[0])
        axis = _axis(join, rank)
        # From the front with the first sizes known, or from the back with the last ones known.
        pieces = _tensors(join) if index >= 0 else list(reversed(_tensors(join)))
        left = index if index >= 0 else -1 - index
        for value in pieces:
            size = value.shape[axis] if _rank(value) == rank else None
            if not isinstance(size, int):
                return None
            if left < size:
                return value, left if index >= 0 else -1 - left
            left -= size
        return None


class SelectOfUnsqueeze(_Bitwise):
    """select(unsqueeze(x, d), d, 0) → x."""

    name = "select-of-unsqueeze"
    pattern = aten.select.int(produced_by({"aten.unsqueeze"}, "unsqueeze"), ...)

    def guard(self, match: Match) -> bool:
        """The selected dim is the new one."""
        root, inner = match.root, match.node("unsqueeze")
        rank = _rank(inner.results[0])
        return root.attr("dim") % rank == inner.attr("dim") % rank and root.attributes.get("index") in (0, -1)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The source itself."""
        return match.node("unsqueeze").operands[0]


class FlipFlip(_Bitwise):
    """flip(flip(x)) → x, over the same dims."""

    name = "flip-flip"
    pattern = aten.flip(produced_by({"aten.flip"}, "inner"), ...)

    def guard(self, match: Match) -> bool:
        """The same set of dims."""
        rank = _rank(match.root.results[0])
        first, second = ({d % rank for d in n.attributes["dims"]} for n in (match.node("inner"), match.root))
        return first == second

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The source itself."""
        return match.node("inner").operands[0]


RULES: tuple[Rule, ...] = (
    CatOfOne(),
    CatDropEmpty(),
    CatOfSplit(),
    NestedCat(),
    StackOfOne(),
    SplitOfOne(),
    SplitOfCat(),
    MergeSlices(),
    SliceOfCat(),
    SelectOfStack(),
    SelectOfCat(),
    SelectOfUnsqueeze(),
    FlipFlip(),
)
