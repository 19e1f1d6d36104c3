"""Raise attention that is written out to `scaled_dot_product_attention`.

    softmax(s · Q Kᵀ + M) V → scaled_dot_product_attention(Q, K, V, M, scale=s)
    attention(Q, K, V, M) → attention(Q, K, V, causal)                  M stored, 0 up to the diagonal, −∞ beyond
    attention(Q, repeat(K), repeat(V)) → attention(Q, K, V, grouped)    repeat: each head for a group of queries

The scale may stand at Q, at K, at both or at the scores. The mask is added (several are summed), or a stored one
chooses between scores and −∞. Reassociating: the fused kernels never store the scores, and sum in another order.

Where a whole row of M is −∞ the written-out form gives NaN and the fused one 0, so every row must be proved to show a
key, unless the written-out form replaces NaN by 0 itself. Batch dims must be known to be equal, since the fused
operator does not broadcast them as a product does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.ir.dims import known_equal, shapes_known_equal
from graphopt.passes.rules.conditions import is_finite
from graphopt.passes.rules.permutes import compose, permuted
from graphopt.passes.rules.reshapes import RESHAPES
from graphopt.passes.support.lossless import LosslessRules
from graphopt.passes.support.scores import Scores, find_scores, find_weights, is_causal, shows_every_row
from graphopt.rewrite import Contract, Match, Rewriter, Rule, aten, var
from graphopt.rewrite.pattern import Surroundings, wants_single_use
from graphopt.rewrite.rule import Replacement

_ATTENTION = "aten.scaled_dot_product_attention"


class RaiseAttention(Rule):
    """The whole pattern, from the product with V at the root."""

    name = "raise-attention"
    contract = Contract.REASSOCIATING
    pattern = (aten.matmul(var("weights"), var("v")), aten.bmm(var("weights"), var("v")))

    def guard(self, match: Match) -> bool:
        """The left-hand side is a softmax."""
        return match["weights"].producer is not None and find_weights(match["weights"], match.surroundings) is not None

    def check(self, match: Match) -> str | None:
        """Read the scores, and prove that the fused operator means the same."""
        weights = find_weights(match["weights"], match.surroundings)
        assert weights is not None
        if weights.other_uses:
            return wants_single_use(weights.value, weights.other_uses)
        scores = find_scores(weights.softmax, match.surroundings)
        if isinstance(scores, str):
            return scores
        return _refusal(scores, match["v"]) or _mask_refusal(scores, weights.guarded, match.surroundings)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Create the fused operator."""
        weights = find_weights(match["weights"], match.surroundings)
        assert weights is not None
        scores = find_scores(weights.softmax, match.surroundings)
        assert isinstance(scores, Scores)
        rank = len(scores.axes)
        swap = (*range(rank - 2), rank - 1, rank - 2)
        key = permuted(scores.source, compose(scores.axes, swap), rewriter)
        operands = (scores.query, key, match["v"], _mask(scores, rewriter))
        return rewriter.create(_ATTENTION, *operands, 0.0, False, scale=scores.scale).result


def _mask(scores: Scores, rewriter: Rewriter) -> Value | None:
    """One mask of those that are added; a choice stands alone."""
    total: Value | None = scores.shown
    for mask in scores.masks:
        total = mask if total is None else rewriter.create("aten.add.Tensor", total, mask).result
    return total


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
    return None


def _mask_refusal(scores: Scores, guarded: bool, surroundings: Surroundings) -> str | None:
    masks = [*scores.masks, *([scores.shown] if scores.shown is not None else [])]
    if scores.shown is not None and scores.masks:
        return "a mask is added and another chooses"
    query = scores.query.type
    assert isinstance(query, TensorType)
    for mask in masks:
        type_ = mask.type
        wanted = DType.BOOL if mask is scores.shown else query.dtype
        if not isinstance(type_, TensorType) or type_.dtype is not wanted or not 2 <= type_.rank <= query.rank:
            return "the mask is of another type or rank"
    if guarded:
        return None
    hiding = [mask for mask in masks if not is_finite(mask)]
    proved = not hiding or (len(hiding) == 1 and shows_every_row(hiding[0], surroundings))
    return None if proved else "a row of the mask may hide every key, which gives NaN here, 0 fused"


class CausalMask(Rule):
    """attention(Q, K, V, M) → attention(Q, K, V, causal)."""

    name = "causal-mask"
    contract = Contract.REASSOCIATING
    pattern = aten.scaled_dot_product_attention(var("q"), var("k"), var("v"), var("mask"), ...)

    def guard(self, match: Match) -> bool:
        """A stored mask that shows each row the keys up to its own place."""
        mask: Value | None = match["mask"]
        return mask is not None and not match.root.attributes["is_causal"] and is_causal(mask, match.surroundings)

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """The mask becomes an attribute."""
        attributes = match.root.attributes
        options = {"scale": attributes["scale"], "enable_gqa": attributes["enable_gqa"]}
        query, key, value = match["q"], match["k"], match["v"]
        return rewriter.create(_ATTENTION, query, key, value, None, attributes["dropout_p"], True, **options).result


class GroupedHeads(Rule):
    """attention(Q, repeat(K), repeat(V)) → attention(Q, K, V, grouped)."""

    name = "grouped-heads"
    contract = Contract.REASSOCIATING
    pattern = aten.scaled_dot_product_attention(var("q"), var("k"), var("v"), ...)

    def guard(self, match: Match) -> bool:
        """Keys and values are repeated alike."""
        if match.root.attributes["enable_gqa"] or match["q"].type.rank != 4:
            return False
        keys, values = _repeated(match["k"]), _repeated(match["v"])
        return keys is not None and values is not None and known_equal(keys.shape[1], values.shape[1])

    def rewrite(self, match: Match, rewriter: Rewriter) -> Replacement:
        """Take the heads as they were."""
        query, keys, values, *mask = match.root._operands
        attributes = match.root.attributes
        return rewriter.create(
            _ATTENTION,
            query,
            _single(keys, rewriter),
            _single(values, rewriter),
            mask[0] if mask else None,
            attributes["dropout_p"],
            attributes["is_causal"],
            scale=attributes["scale"],
            enable_gqa=True,
        ).result


def _repeated(value: Value) -> Value | None:
    """x of shape [B, H, S, D], or [B, H, 1, S, D], where the value is each of its heads g times in a row:
    reshape(expand(x))."""
    node = value.producer
    if node is None:
        return None
    if node.op.name == "aten.repeat_interleave.self_int" and node.attributes["dim"] in (1, -3):
        return node._operands[0]
    spread = _operand(node, RESHAPES)
    expand = spread.producer if spread is not None else None
    column = _operand(expand, ("aten.expand",)) if expand is not None else None
    if column is None or spread is None:
        return None
    own, wide, full = (v.type.shape for v in (column, spread, value))  # type: ignore[union-attr]
    if len(own) != 5 or len(wide) != 5 or len(full) != 4 or own[2] != 1:
        return None
    same = shapes_known_equal(wide, (*own[:2], wide[2], *own[3:]))
    return column if same and shapes_known_equal(full, (own[0], own[1] * wide[2], *own[3:])) else None


def _single(value: Value | None, rewriter: Rewriter) -> Value:
    """The heads before they were repeated."""
    source = _repeated(value) if value is not None else None
    assert source is not None and isinstance(source.type, TensorType)
    shape = source.type.shape
    return source if len(shape) == 4 else rewriter.create("aten.reshape", source, (*shape[:2], *shape[3:])).result


def _operand(node: Node, bases: Iterable[str]) -> Value | None:
    return node._operands[0] if node.op.base in bases else None


RULES: tuple[Rule, ...] = (RaiseAttention(), CausalMask(), GroupedHeads())


@dataclass(frozen=True)
class FuseAttention(LosslessRules):
    """Make `scaled_dot_product_attention` of its parts."""

    contract = Contract.REASSOCIATING

    def rules(self) -> Iterable[Rule]:
        """The whole pattern, then what the operator has an attribute for."""
        return RULES
