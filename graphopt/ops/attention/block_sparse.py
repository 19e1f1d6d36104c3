"""`graphopt.block_sparse_attention`: attention that computes the live blocks of its scores alone.

    softmax(s · Q Kᵀ + M) V,   the keys that M hides left out by a plan (see `plan`)

query [B, H, L, E], key [B, G, S, E], value [B, G, S, F] → [B, H, L, F]. Its derivative is that of the attention.
"""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import TensorType, Trait
from graphopt.ops.attention.library import register_attention
from graphopt.ops.attention.plan import decode, run_plan
from graphopt.ops.inference import Mismatch
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.block_sparse_attention"


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    plan: list[int],
    scale: float | None = None,
) -> torch.Tensor:
    return run_plan(query, key, value, decode(tuple(plan)), bias, scale=scale)


def new_result(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
    """The result without its elements, laid out as `run_plan` leaves it."""
    batch, heads, length, _ = query.shape
    return value.new_empty((batch, length, heads, value.shape[3])).transpose(1, 2)


register_attention("block_sparse_attention", "Tensor? bias, int[] plan, float? scale=None", _attention, new_result)


def attended_type(query: TensorType, key: TensorType, value: TensorType) -> TensorType:
    """The type of attention with heads apart.

    Raises:
        Mismatch: the operands have not four dims.
    """
    if not query.rank == key.rank == value.rank == 4:
        raise Mismatch(f"queries, keys and values have four dims, not {query!r}, {key!r} and {value!r}")
    return query.with_shape((*query.shape[:3], value.shape[3]))


def _infer(
    query: TensorType,
    key: TensorType,
    value: TensorType,
    bias: TensorType | None,
    plan: tuple[int, ...],
    scale: float | None,
) -> TensorType:
    """As many rows as queries, each of the values' size."""
    return attended_type(query, key, value)


register_torch_op(NAME, (Trait.PURE,), _infer)
