"""Nodes that compute s[c] · x + t[c] for each channel c: batch norms, and arithmetic with constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Node, TensorType, Value
from graphopt.passes.rules.conditions import is_number
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.rewrite.pattern import Surroundings

BATCH_NORMS = frozenset({"aten.batch_norm", "aten._native_batch_norm_legit_no_training", "aten.native_batch_norm"})
ARITHMETIC = frozenset({"aten.add", "aten.sub", "aten.mul", "aten.div"})


@dataclass(frozen=True)
class Affine:
    """y = scale[c] · x + shift[c], in double precision; None stands for ones or zeros."""

    source: Value
    scale: torch.Tensor | None
    shift: torch.Tensor | None


def batch_norm(node: Node, surroundings: Surroundings) -> Affine | str:
    """Read a batch norm in evaluation, whose channels are axis 1, or say why it is none.

    γ (x − μ) / √(σ² + ε) + β = s x + t with s = γ / √(σ² + ε) and t = β − μ s.
    """
    mode = node.attributes.get("training", False)
    if mode is True or (mode == "follow" and surroundings.trainable):
        return "the batch norm is in training"
    source, gamma, beta, mean, variance = node._operands[:5]
    if mean is None or variance is None:
        return "the batch norm uses the statistics of its batch"
    if not all(v is None or surroundings.is_fixed(v) for v in (gamma, beta, mean, variance)):
        return "the batch norm's statistics are no fixed constants"
    if any(r.num_uses for r in node.results[1:]):
        return "the statistics that the batch norm returns are used"
    assert source is not None
    scale = (stored_tensor(variance).double() + node.attributes["eps"]).rsqrt()
    if gamma is not None:
        scale = scale * stored_tensor(gamma).double()
    shift = -stored_tensor(mean).double() * scale
    if beta is not None:
        shift = shift + stored_tensor(beta).double()
    if not bool((scale.isfinite() & shift.isfinite()).all()):
        return "the batch norm's scale is not finite"
    return Affine(source, scale, shift)


def arithmetic(node: Node, surroundings: Surroundings, channels: int, axis_of: Callable[[Value], int]) -> Affine | str:
    """Read `x + c`, `x − c`, `c − x`, `x · c` or `x / c` with c one number a channel, or say why it is none.

    axis_of: the axis of channels, for a tensor of the node's rank.
    """
    base, result = node.op.base, node.results[0]
    if node.attributes.get("rounding_mode") is not None or node.attributes.get("alpha", 1) != 1:
        return "the operation is not affine"
    found = _sides(node, surroundings)
    if found is None:
        return "neither side is a constant"
    source, constant, swapped = found
    if source.type != result.type:
        return "the constant changes the type"
    vector = _vector(constant, result, axis_of(result), channels)
    if vector is None or not bool(vector.isfinite().all()):
        return "the constant is not one finite number a channel"
    return _affine(base, source, vector, swapped)


def _affine(base: str, source: Value, vector: torch.Tensor, swapped: bool) -> Affine | str:
    if base == "aten.add":
        return Affine(source, None, vector)
    if base == "aten.sub":
        return Affine(source, -torch.ones_like(vector), vector) if swapped else Affine(source, None, -vector)
    if base == "aten.mul":
        return Affine(source, vector, None)
    if swapped or bool((vector == 0).any()):
        return "a division by x, or by zero"
    return Affine(source, 1.0 / vector, None)


def _sides(node: Node, surroundings: Surroundings) -> tuple[Value, Any, bool] | None:
    """The value, the constant, and whether the constant is on the left."""
    if node.op.name.endswith(".Scalar"):
        number, source = node.attributes.get("other"), node._operands[0]
        return (source, number, False) if source is not None and is_number(number) else None
    if not node.op.name.endswith(".Tensor"):
        return None
    left, right = node._operands[:2]
    if left is not None and right is not None:
        if surroundings.is_fixed(right):
            return left, right, False
        if surroundings.is_fixed(left):
            return right, left, True
    return None


def _vector(constant: Any, result: Value, axis: int, channels: int) -> torch.Tensor | None:
    """The constant as one number a channel."""
    if not isinstance(constant, Value):
        return torch.full((channels,), float(constant), dtype=torch.float64)
    assert isinstance(result.type, TensorType)
    tensor = stored_tensor(constant)
    if not tensor.is_floating_point():
        return None
    if tensor.numel() == 1:
        return tensor.double().reshape(1).expand(channels)
    full = (1,) * (result.type.rank - tensor.dim()) + tuple(tensor.shape)
    if tensor.numel() != channels or full[axis] != channels:
        return None
    return tensor.double().reshape(channels)
