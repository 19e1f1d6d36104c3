"""`graphopt.segment_attention`: attention within each sequence of a batch, on its live rows alone.

    mask [B, L]: which of L positions of B sequences are live. The T live rows lie one behind the other, in order.
    query [T, H, E], key [T, G, E], value [T, G, F] → [T, H, F]

Each row sees the live rows of its own sequence, with `is_causal` those up to itself. It is what

    scaled_dot_product_attention(Q, K, V, mask[:, None, None, :])

gives at the live positions of [B, H, L, ·], without a look at the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from graphopt.ir import TensorType, Trait
from graphopt.ops.attention.library import register_attention
from graphopt.ops.inference import Mismatch
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.segment_attention"
_SHORT = 128
"""Sequences up to this length are computed by two products and a softmax."""


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    lengths = [length for length in (mask != 0).sum(1).tolist() if length]
    if sum(lengths) != query.shape[0]:
        raise ValueError(f"the mask shows {sum(lengths)} positions, and there are {query.shape[0]} rows")
    if not lengths:
        return new_result(query, key, value)
    operands = (x.transpose(0, 1).split(lengths, 1) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    factor = query.shape[2] ** -0.5 if scale is None else scale
    parts = [
        _by_products(q, k, v, factor)
        if length <= _SHORT and not is_causal and not grouped
        else scaled_dot_product_attention(
            q[None], k[None], v[None], None, 0.0, is_causal, scale=scale, enable_gqa=grouped
        )[0]
        for length, q, k, v in zip(lengths, *operands)
    ]
    return torch.cat([part.transpose(0, 1) for part in parts])


def _by_products(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float) -> torch.Tensor:
    """What the fused operator gives, [H, L, F], which takes longer to start than scores of few rows take."""
    scores = torch.baddbmm(q.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
    return torch.bmm(scores.softmax(-1), v)


def new_result(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any) -> torch.Tensor:
    """The result without its elements."""
    return value.new_empty((*query.shape[:2], value.shape[2]))


register_attention("segment_attention", "Tensor mask, bool is_causal=False, float? scale=None", _attention, new_result)


def _infer(
    query: TensorType, key: TensorType, value: TensorType, mask: TensorType, is_causal: bool, scale: float | None
) -> TensorType:
    """As many rows as live positions, each of the values' size."""
    if not query.rank == key.rank == value.rank == 3 or mask.rank != 2:
        raise Mismatch(f"rows have three dims, a mask two, not {query!r}, {key!r}, {value!r} and {mask!r}")
    return query.with_shape((*query.shape[:2], value.shape[2]))


register_torch_op(NAME, (Trait.PURE,), _infer)
