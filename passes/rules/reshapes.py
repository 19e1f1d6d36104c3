"""Reshapes: view, flatten, squeeze, unsqueeze and the like are one operation on the row-major order of elements.

    reshape(reshape(x)) → reshape(x)    reshape(f(reshape(x))) → f(x)    expand(expand(x)) → expand(x)
    expand(x) + y → x + y               f(expand(x)) → expand(f(x))

Bitwise: nothing is computed, and an f that rounds correctly (`is_exact`) does the same to each element wherever it
stands. Other functions, which kernels approximate differently from place to place, are moved by rules that reassociate.
"""

from __future__ import annotations

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.rules.conditions import is_exact, is_unary
from graphopt.passes.support.rebuild import same_type_with, with_first_operand
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, produced_by, var
from graphopt.rewrite.pattern import OpPattern
from graphopt.rewrite.rule import Replacement

RESHAPE_NAMES = (
    "reshape",
    "view",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "view_as",
    "reshape_as",
)
RESHAPES = frozenset(f"aten.{name}" for name in RESHAPE_NAMES)
EXPANDS = frozenset({"aten.expand", "aten.expand_as", "aten.broadcast_to"})
WALK_LIMIT = 4
"""How many elementwise nodes a rule looks through."""

x = var("x")


def is_reshape(node: Node) -> bool:
    """True if the node only reshapes (`view.dtype` reinterprets bits)."""
    return node.op.base in RESHAPES and node.op.name != "aten.view.dtype"


def reshaped(source: Value | None, like: Value, rewriter: Rewriter) -> Value:
    """`source` in the shape of `like`: itself if it has it."""
    assert source is not None and isinstance(like.type, TensorType)
    if source.type == like.type:
        return source
    return rewriter.create("aten.reshape", source, like.type.shape).result


class ViewIsReshape(Rule):
    """view(x) → reshape(x): types carry no strides, so what a view asks of them cannot be checked, or kept."""

    name = "view-is-reshape"
    contract = Contract.BITWISE
    pattern = (aten.view(x, ...), aten._unsafe_view(x, ...))

    def guard(self, match: Match) -> bool:
        """It does not reinterpret bits."""
        return is_reshape(match.root)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """To the same shape."""
        return reshaped(match["x"], match.root.results[0], rewriter)


class MergeReshapes(Rule):
    """Two reshapes become one, or none."""

    name = "merge-reshapes"
    contract = Contract.BITWISE
    pattern = tuple(getattr(aten, name)(produced_by(RESHAPES, "inner"), ...) for name in RESHAPE_NAMES)

    def guard(self, match: Match) -> bool:
        """Neither reinterprets bits."""
        return is_reshape(match.root) and is_reshape(match.node("inner"))

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Reshape the source to the final shape."""
        return reshaped(match.node("inner").operands[0], match.root.results[0], rewriter)


def unary_value(value: object) -> bool:
    """True for the result of a unary elementwise node that nothing else uses."""
    return (
        isinstance(value, Value) and value.producer is not None and len(value._uses) == 1 and is_unary(value.producer)
    )


def through_unary(value: Value) -> tuple[Node | None, list[Node]]:
    """Walk up from `value` through unary elementwise nodes that nothing else uses.

    Returns the node where the walk ends (None at an input or constant) and the nodes walked through, last first.
    """
    walked: list[Node] = []
    while unary_value(value) and len(walked) < WALK_LIMIT:
        node = value.producer
        assert node is not None
        walked.append(node)
        first = node._operands[0]
        assert first is not None
        value = first
    return value.producer, walked


class ReshapeThroughUnary(Rule):
    """A reshape behind elementwise nodes that round correctly meets the reshape before them."""

    name = "reshape-through-unary"
    contract = Contract.BITWISE
    exact = True
    pattern = tuple(getattr(aten, name)(var("y", unary_value), ...) for name in RESHAPE_NAMES)

    def guard(self, match: Match) -> bool:
        """The walk ends at a reshape that goes away with it."""
        if not is_reshape(match.root):
            return False
        top, walked = through_unary(match["y"])
        if top is None or not is_reshape(top) or not _dies(top, match.root):
            return False
        if all(map(is_exact, walked)) is not self.exact:
            return False
        # A 0-dim tensor takes less part in type promotion, so beside another tensor it must not become one.
        return bool(match.root.results[0].shape) or all(len(list(n.inputs)) == 1 for n in walked)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Reshape first, then compute."""
        top, walked = through_unary(match["y"])
        assert top is not None
        source = top.operands[0]
        assert source is not None and isinstance(source.type, TensorType)
        target = match.root.results[0].type
        assert isinstance(target, TensorType)
        value = source
        if source.type.shape != target.shape:
            value = rewriter.create("aten.reshape", source, target.shape).result
        for node in reversed(walked):
            value = with_first_operand(node, value, rewriter)
        return value


class ReshapeThroughFunction(ReshapeThroughUnary):
    """The same for other functions."""

    name = "reshape-through-function"
    contract = Contract.REASSOCIATING
    exact = False


def _dies(top: Node, root: Node) -> bool:
    """The upper reshape has no other use, or it is undone altogether: either way one node fewer is left."""
    source = top._operands[0]
    assert source is not None and isinstance(source.type, TensorType)
    undone = source.shape == root.results[0].shape
    return undone or len(top.results[0]._uses) == 1


class MergeExpands(Rule):
    """Two expansions become one."""

    name = "merge-expands"
    contract = Contract.BITWISE
    pattern = tuple(
        getattr(aten, name)(produced_by(EXPANDS, "inner"), ...) for name in ("expand", "expand_as", "broadcast_to")
    )

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Expand the source to the final shape."""
        type_ = match.root.results[0].type
        assert isinstance(type_, TensorType)
        return rewriter.create("aten.expand", match.node("inner").operands[0], type_.shape).result


_BROADCASTING = [
    "add",
    "sub",
    "mul",
    "div",
    "maximum",
    "minimum",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
]


class DropExpand(Rule):
    """An operator that broadcasts needs no expanded operand, as long as the result keeps its shape."""

    name = "drop-expand"
    contract = Contract.BITWISE
    pattern = (
        *(
            getattr(aten, name)(*arguments, ...)
            for name in _BROADCASTING
            for arguments in ((produced_by(EXPANDS, "wide"),), (x, produced_by(EXPANDS, "wide")))
        ),
        aten.where.self(produced_by(EXPANDS, "wide"), ...),
        aten.where.self(x, produced_by(EXPANDS, "wide"), ...),
        aten.where.self(x, var("y"), produced_by(EXPANDS, "wide")),
    )

    def guard(self, match: Match) -> bool:
        """The result's type stays. (A 0-dim operand would take less part in type promotion.)"""
        wide = match.node("wide")
        if not is_exact(match.root):
            return False
        source = wide._operands[0]
        if source is None or not source.shape:
            return False
        return same_type_with(match.root, _without(match.root, wide))

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Put the source in the expansion's place."""
        return rewriter.rebuild(match.root, _without(match.root, match.node("wide"))).results


_UNARY = (
    "_to_copy neg abs relu sigmoid tanh exp sqrt rsqrt reciprocal logical_not bitwise_not cos sin add.Scalar "
    "sub.Scalar mul.Scalar div.Scalar rsub.Scalar pow.Tensor_Scalar eq.Scalar ne.Scalar lt.Scalar le.Scalar "
    "gt.Scalar ge.Scalar clamp gelu silu"
)


class SinkExpand(Rule):
    """f(expand(x)) → expand(f(x)), where f rounds correctly: equal numbers are computed once."""

    name = "sink-expand"
    contract = Contract.BITWISE
    exact = True
    pattern = tuple(OpPattern(f"aten.{name}", (produced_by(EXPANDS, "wide"),), rest=True) for name in _UNARY.split())

    def guard(self, match: Match) -> bool:
        """f takes one tensor."""
        root = match.root
        return is_exact(root) is self.exact and is_unary(root) and len(list(root.inputs)) == 1

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Compute first, then expand."""
        source = match.node("wide").operands[0]
        assert source is not None
        value = with_first_operand(match.root, source, rewriter)
        return rewriter.create("aten.expand", value, match.root.results[0].shape).result


class SinkExpandOfFunction(SinkExpand):
    """The same for other functions."""

    name = "sink-expand-of-function"
    contract = Contract.REASSOCIATING
    exact = False


def _without(root: Node, wide: Node) -> list[Value | None]:
    value, source = wide.results[0], wide.operands[0]
    return [source if operand is value else operand for operand in root._operands]


RULES: tuple[Rule, ...] = (
    MergeReshapes(),
    ViewIsReshape(),
    ReshapeThroughUnary(),
    ReshapeThroughFunction(),
    MergeExpands(),
    DropExpand(),
    SinkExpand(),
    SinkExpandOfFunction(),
)
