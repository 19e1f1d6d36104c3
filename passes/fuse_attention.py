"""Raise attention that is written out to `scaled_dot_product_attention`.

    softmax(s · Q Kᵀ + M) V → scaled_dot_product_attention(Q, K, V, M, scale=s)

Reassociating: the fused kernels never store the scores, and sum in another order. Where a whole row of M is −∞ the
written-out form gives NaN and the fused one 0, so M must be proved finite. Batch dims must be known to be equal, since
the fused operator does not broadcast them as a product does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import Node, TensorType, Value
from graphopt.ir.dims import shapes_known_equal
from graphopt.passes.rules.conditions import is_finite, is_number
from graphopt.passes.rules.permutes import Permutation, compose, permutation, permuted
from graphopt.passes.support.lossless import LosslessRules
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, produced_by, uniform_value, var
from graphopt.rewrite.pattern import Surroundings
from graphopt.rewrite.rule import Replacement

_PRODUCTS = frozenset({"aten.matmul", "aten.bmm"})
_SOFTMAX = frozenset({"aten.softmax", "aten._softmax"})
_ATTENTION = "aten.scaled_dot_product_attention"


@dataclass(frozen=True)
class Scores:
    """s · Q Kᵀ + M as it was found: Kᵀ is a permutation `axes` of `source`."""

    query: Value
    source: Value
    axes: Permutation
    scale: float
    mask: Value | None


class RaiseAttention(Rule):
    """The whole pattern, from the product with V at the root."""

    name = "raise-attention"
    contract = Contract.REASSOCIATING
    pattern = (
        aten.matmul(produced_by(_SOFTMAX, "softmax").once, var("v")),
        aten.bmm(produced_by(_SOFTMAX, "softmax").once, var("v")),
    )

    def check(self, match: Match) -> str | None:
        """Read the scores, and prove that the fused operator means the same."""
        scores = find_scores(match.node("softmax"), match.surroundings)
        return scores if isinstance(scores, str) else _refusal(scores, match["v"])

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create the fused operator."""
        scores = find_scores(match.node("softmax"), match.surroundings)
        assert isinstance(scores, Scores)
        rank = len(scores.axes)
        swap = (*range(rank - 2), rank - 1, rank - 2)
        key = permuted(scores.source, compose(scores.axes, swap), rewriter)
        return rewriter.create(
            _ATTENTION, scores.query, key, match["v"], scores.mask, 0.0, False, scale=scores.scale
        ).result


def find_scores(softmax: Node, surroundings: Surroundings) -> Scores | str:
    """Read the operand of a softmax over the last axis as scores, or say why it is none."""
    value, result = softmax._operands[0], softmax.results[0]
    assert value is not None and isinstance(result.type, TensorType)
    if softmax.attributes["dim"] not in (-1, result.type.rank - 1) or value.type != result.type:
        return "the softmax is not over the last axis, or casts"
    mask: Value | None = None
    node = _sole(value)
    if node is not None and node.op.name == "aten.add.Tensor" and node.attributes.get("alpha", 1) == 1:
        value, mask = _split_mask(node, surroundings)
        node = _sole(value) if value is not None else None
    scale = 1.0
    factor = _factor(node, surroundings) if node is not None else None
    if node is not None and factor is not None:
        scale, value = factor
        node = _sole(value)
    if node is None or node.op.base not in _PRODUCTS:
        return "the scores are no scaled product"
    query, transposed = node._operands[:2]
    assert query is not None and transposed is not None
    producer = transposed.producer
    axes = permutation(producer) if producer is not None else None
    source = producer._operands[0] if producer is not None else None
    if axes is None or source is None or axes[-1] == len(axes) - 1:
        return "the keys are not transposed"
    return Scores(query, source, axes, scale, mask)


def _sole(value: Value) -> Node | None:
    """The producer of a value that nothing else uses."""
    return value.producer if len(value._uses) == 1 else None


def _split_mask(node: Node, surroundings: Surroundings) -> tuple[Value | None, Value | None]:
    """The scores and the mask among the two operands of a sum."""
    left, right = node._operands[:2]
    assert left is not None and right is not None
    for scores, mask in ((left, right), (right, left)):
        producer = _sole(scores)
        if producer is None:
            continue
        factor = _factor(producer, surroundings)
        inner = _sole(factor[1]) if factor is not None else producer
        if inner is not None and inner.op.base in _PRODUCTS:
            return scores, mask
    return None, None


def _factor(node: Node, surroundings: Surroundings) -> tuple[float, Value] | None:
    """Read x · s or x / s with a positive number s."""
    if node.op.base not in ("aten.mul", "aten.div"):
        return None
    source = node._operands[0]
    number = node.attributes.get("other")
    if node.op.name.endswith(".Tensor"):
        other = node._operands[1]
        if other is None or not surroundings.is_fixed(other):
            return None
        number = uniform_value(other)
    if source is None or not is_number(number) or number <= 0 or source.type != node.results[0].type:
        return None
    return (1.0 / number if node.op.base == "aten.div" else float(number)), source


def _refusal(scores: Scores, value: Value) -> str | None:
    query, key, values = scores.query.type, scores.source.type, value.type
    if not (isinstance(query, TensorType) and isinstance(key, TensorType) and isinstance(values, TensorType)):
        return "an operand is no tensor"
    rank = query.rank
    if rank not in (3, 4) or len(scores.axes) != rank or values.rank != rank:
        return "the ranks differ, or are not 3 or 4"
    keys = tuple(key.shape[axis] for axis in scores.axes)
    for shape in (keys, values.shape):
        if not shapes_known_equal(shape[:-2], query.shape[:-2]):
            return "the batch dims are not known to be equal"
    if len({query.dtype, key.dtype, values.dtype}) > 1 or not query.dtype.is_floating:
        return "the types differ, or are no floats"
    return _mask_refusal(scores.mask, query)


def _mask_refusal(mask: Value | None, query: TensorType) -> str | None:
    if mask is None:
        return None
    type_ = mask.type
    if not isinstance(type_, TensorType) or type_.dtype is not query.dtype or not 2 <= type_.rank <= query.rank:
        return "the mask is of another type or rank"
    return None if is_finite(mask) else "the mask is not proved finite, and a row of −∞ gives NaN here, 0 fused"


RULES: tuple[Rule, ...] = (RaiseAttention(),)


@dataclass(frozen=True)
class FuseAttention(LosslessRules):
    """Make `scaled_dot_product_attention` of its parts."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """One rule."""
        return RULES
