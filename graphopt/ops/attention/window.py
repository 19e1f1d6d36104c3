"""`graphopt.window_attention`: each query sees the keys near by, and a few that all see.

    query i sees key j   ⇔   i − left ≤ j ≤ i + right,  or  i < tokens,  or  j < tokens,      and the mask shows it

query [B, H, L, E], key [B, G, S, E], value [B, G, S, F], attn_mask [B or 1, H or 1, L or 1, S] → [B, H, L, F]. The plan
follows from the sizes of a call, so they may be dynamic.
"""

from __future__ import annotations

import torch

from graphopt.ir import TensorType, Trait
from graphopt.ops.attention.block_sparse import attended_type, new_result
from graphopt.ops.attention.library import register_attention
from graphopt.ops.attention.plan import run_plan
from graphopt.ops.attention.planning import ROWS, plan_window
from graphopt.ops.inference import Mismatch
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.window_attention"
_WIDE = 512
"""From this many keys in a window on, blocks have twice the rows, which makes fewer and larger calls."""


def rows_for(left: int, right: int) -> int:
    """Queries in a block for a window."""
    return ROWS if left + right < _WIDE else 2 * ROWS


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    left: int,
    right: int,
    tokens: int = 0,
    scale: float | None = None,
) -> torch.Tensor:
    planned = plan_window(query.shape[2], key.shape[2], left, right, tokens, rows_for(left, right))
    bias = planned.bias.to(query.dtype).to(query.device)
    if attn_mask is not None:
        attn_mask = _four_dims(attn_mask, query.dtype, key.shape[2])
    return run_plan(query, key, value, planned.calls, bias, attn_mask, scale)


def _four_dims(mask: torch.Tensor, dtype: torch.dtype, keys: int) -> torch.Tensor:
    """A mask in any form that attention takes, as numbers to add."""
    if mask.dtype is torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
    mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
    return mask.expand(-1, -1, -1, keys)


register_attention(
    "window_attention",
    "Tensor? attn_mask, int left, int right, int tokens=0, float? scale=None",
    _attention,
    new_result,
)


def _infer(
    query: TensorType,
    key: TensorType,
    value: TensorType,
    attn_mask: TensorType | None,
    left: int,
    right: int,
    tokens: int,
    scale: float | None,
) -> TensorType:
    """As many rows as queries, each of the values' size."""
    if min(left, right, tokens) < 0:
        raise Mismatch(f"a window has no negative size: left={left}, right={right}, tokens={tokens}")
    return attended_type(query, key, value)


register_torch_op(NAME, (Trait.PURE,), _infer)
