"""Attention scores as they are found before a softmax: s · Q Kᵀ + M, the scale anywhere, the mask in any form."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from graphopt.ir import DType, Node, TensorType, Value
from graphopt.passes.rules.casts import cast_source
from graphopt.passes.rules.conditions import dtype_of, is_finite, is_number
from graphopt.passes.rules.permutes import Permutation, permutation
from graphopt.rewrite import uniform_value
from graphopt.rewrite.pattern import Surroundings

PRODUCTS = frozenset({"aten.matmul", "aten.bmm"})
SOFTMAX = frozenset({"aten.softmax", "aten._softmax"})
_HALVES = (DType.F16, DType.BF16)
_HIDDEN = -1e30
"""What is added to a score to hide it: its exponential is 0 in every precision, whatever the score was."""


@dataclass
class Scores:
    """s · Q Kᵀ + Σ M as it was found: Kᵀ is a permutation `axes` of `source`.

    masks: what is added. shown: where a score is not replaced by one that hides it.
    """

    query: Value
    source: Value
    axes: Permutation
    scale: float = 1.0
    masks: list[Value] = field(default_factory=list)
    shown: Value | None = None


@dataclass(frozen=True)
class Weights:
    """softmax(…) as the product with V takes it.

    value: the weights themselves. guarded: rows of NaN are replaced by 0, as the fused operator does.
    """

    value: Value
    softmax: Node
    guarded: bool

    @property
    def other_uses(self) -> int:
        """How many uses of the weights are not the product's, or its guard's."""
        return self.value.num_uses - (2 if self.guarded else 1)


def find_weights(value: Value, surroundings: Surroundings) -> Weights | None:
    """The softmax behind an operand: itself, narrowed to half precision, or guarded against NaN.

    The guard is where(isnan(p), 0, p), which exporters write for rows whose keys are all hidden.
    """
    node = value.producer
    if node is None:
        return None
    inner, guarded = _unguarded(node, surroundings)
    softmax = inner.producer
    if softmax is not None and cast_source(softmax) is not None and dtype_of(inner) in _HALVES:
        source = softmax._operands[0]
        softmax = source.producer if source is not None and source.num_uses == 1 else None
    return Weights(inner, softmax, guarded) if softmax is not None and softmax.op.base in SOFTMAX else None


def _unguarded(node: Node, surroundings: Surroundings) -> tuple[Value, bool]:
    """p in where(isnan(p), 0, p) and masked_fill(p, isnan(p), 0), and whether it was found in one."""
    condition, kept, number = _choice(node, surroundings)
    test = condition.producer if condition is not None else None
    if test is None or test.op.base != "aten.isnan" or test._operands[0] is not kept or len(test.results[0]._uses) != 1:
        return node.results[0], False
    return (kept, True) if number == 0 and kept is not None else (node.results[0], False)


def _choice(node: Node, surroundings: Surroundings) -> tuple[Value | None, Value | None, float | None]:
    """Read a node as "where the condition holds, the number, else the value"; Nones for any other."""
    operands = node._operands
    if node.op.name == "aten.masked_fill.Scalar":
        return operands[1], operands[0], node.attributes.get("value")
    if node.op.name == "aten.where.ScalarSelf":
        return operands[0], operands[1], node.attributes.get("self")
    if node.op.name in ("aten.where.self", "aten.masked_fill.Tensor"):
        fills = node.op.name == "aten.masked_fill.Tensor"
        condition, number, kept = (operands[1], operands[2], operands[0]) if fills else operands[:3]
        stored = number is not None and surroundings.is_fixed(number)
        return condition, kept, uniform_value(number) if stored and number is not None else None
    return None, None, None


def find_scores(softmax: Node, surroundings: Surroundings) -> Scores | str:
    """Read the operand of a softmax as scores, or say why it is none."""
    value, result = softmax._operands[0], softmax.results[0]
    assert value is not None and isinstance(result.type, TensorType)
    if softmax.attributes["dim"] not in (-1, result.type.rank - 1):
        return "the softmax is not over the last axis"
    value = _widened_source(value)
    found: list[Value] = []
    scale, shown = 1.0, None
    while (node := _sole(value)) is not None and node.op.base not in PRODUCTS:
        factor = _factor(node, surroundings)
        hidden = _hiding(node, surroundings)
        if factor is not None:
            scale, value = scale * factor[0], factor[1]
        elif scale != 1:
            break  # a factor behind the mask would be one of the mask, too
        elif hidden is not None and shown is None:
            shown, value = hidden
        elif _is_sum(node) and (parts := _split(node, surroundings)) is not None:
            value = parts[0]
            found.append(parts[1])
        else:
            break
    if node is None or node.op.base not in PRODUCTS:
        return "the scores are no scaled product"
    return _product(node, Scores(value, value, (), scale, found, shown), surroundings)


def _widened_source(value: Value) -> Value:
    """What was widened from half precision for the softmax alone."""
    node = _sole(value)
    source = cast_source(node) if node is not None else None
    return source if source is not None and dtype_of(source) in _HALVES and dtype_of(value) is DType.F32 else value


def _product(node: Node, scores: Scores, surroundings: Surroundings) -> Scores | str:
    query, keys = node._operands[:2]
    assert query is not None and keys is not None
    scale, query = _unscaled(query, surroundings)
    factor, keys = _unscaled(keys, surroundings)
    producer = keys.producer
    axes = permutation(producer) if producer is not None else None
    source = producer._operands[0] if producer is not None else None
    if axes is None or source is None or axes[-1] == len(axes) - 1:
        return "the keys are not transposed"
    inner, source = _unscaled(source, surroundings)
    total = scores.scale * scale * factor * inner
    return Scores(query, source, axes, total, scores.masks, scores.shown) if total > 0 else "the scale is not positive"


def _unscaled(value: Value, surroundings: Surroundings) -> tuple[float, Value]:
    """s and x of x · s, or 1 and the value itself."""
    factor = _factor(value.producer, surroundings) if value.producer is not None else None
    return factor if factor is not None else (1.0, value)


def _sole(value: Value) -> Node | None:
    """The producer of a value that nothing else uses."""
    return value.producer if value.num_uses == 1 else None


def _is_sum(node: Node) -> bool:
    return node.op.name == "aten.add.Tensor" and node.attributes.get("alpha", 1) == 1


def _split(node: Node, surroundings: Surroundings) -> tuple[Value, Value] | None:
    """The scores and the mask among the two operands of a sum."""
    left, right = node._operands[:2]
    assert left is not None and right is not None
    for scores, mask in ((left, right), (right, left)):
        if scores.type == node.results[0].type and _reaches_product(scores, surroundings):
            return scores, mask
    return None


def _reaches_product(value: Value, surroundings: Surroundings, depth: int = 4) -> bool:
    """True if sums, factors and choices that nothing else uses lead to a product."""
    node = _sole(value)
    if node is None or depth == 0:
        return False
    if node.op.base in PRODUCTS:
        return True
    factor, hidden = _factor(node, surroundings), _hiding(node, surroundings)
    if factor is not None or hidden is not None:
        return _reaches_product((factor or hidden)[1], surroundings, depth - 1)  # type: ignore[index]
    return _is_sum(node) and any(v is not None and _reaches_product(v, surroundings, depth - 1) for v in node._operands)


def _factor(node: Node, surroundings: Surroundings) -> tuple[float, Value] | None:
    """Read x · s or x / s with a number s that is not 0."""
    if node.op.base not in ("aten.mul", "aten.div"):
        return None
    source = node._operands[0]
    number = node.attributes.get("other")
    if node.op.name.endswith(".Tensor"):
        other = node._operands[1]
        if other is None or not surroundings.is_fixed(other):
            return None
        number = uniform_value(other)
    if source is None or not is_number(number) or not number or source.type != node.results[0].type:
        return None
    return (1.0 / number if node.op.base == "aten.div" else float(number)), source


def _hiding(node: Node, surroundings: Surroundings) -> tuple[Value, Value] | None:
    """The stored condition under which scores stay, and the scores, of where(shown, scores, −∞)."""
    if node.op.name not in ("aten.where.self", "aten.where.ScalarOther"):
        return None
    condition, scores = node._operands[:2]
    number = node.attributes.get("other")
    if node.op.name == "aten.where.self":
        other = node._operands[2]
        number = uniform_value(other) if other is not None and surroundings.is_fixed(other) else None
    if condition is None or scores is None or not is_number(number) or number > _HIDDEN:
        return None
    return (condition, scores) if surroundings.is_fixed(condition) and scores.type == node.results[0].type else None


def shows_every_row(mask: Value, surroundings: Surroundings) -> bool:
    """True if it is proved that no row of a mask hides all keys. A bool mask says what stays, others are added."""
    if dtype_of(mask) is not DType.BOOL and is_finite(mask):
        return True
    if not surroundings.is_fixed(mask) or mask.constant is None:
        return False
    tensor = mask.constant.tensor
    if tensor.dtype.is_floating_point:
        return bool((tensor < float("inf")).all()) and bool((tensor > _HIDDEN).any(-1).all())
    return bool(tensor.any(-1).all())


def is_causal(mask: Value, surroundings: Surroundings) -> bool:
    """True for a stored mask that shows row i the keys 0 to i, adds nothing to them, and hides the others."""
    if not surroundings.is_fixed(mask) or mask.constant is None:
        return False
    tensor = mask.constant.tensor
    if tensor.dim() < 2 or tensor.shape[-2] < 2:
        return False
    visible = torch.ones(tensor.shape[-2:], dtype=torch.bool).tril()
    if not tensor.dtype.is_floating_point:
        return bool((tensor == visible).all())
    return bool((tensor[..., visible] == 0).all()) and bool((tensor[..., ~visible] <= _HIDDEN).all())
