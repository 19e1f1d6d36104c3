"""Attention as ONNX has it from opset 23 on: the `graphopt` operator `attention`.

    Q [B, H, L, E], K [B, G, S, E], V [B, G, S, F] → [B, H, L, F]        the heads apart
    Q [B, L, H·E],  K [B, S, G·E],  V [B, S, G·F]  → [B, L, H·F]         or side by side, their numbers given

Head h of the queries attends to head h // (H / G) of the keys. A kernel that reads heads side by side needs no
transposed copy of any operand, which costs more than the attention itself where sequences are short.
"""

from __future__ import annotations

import torch

from graphopt.ir import TensorType, Trait
from graphopt.ops.inference import Mismatch
from graphopt.ops.torch_dialects import register_torch_op

NAME = "graphopt.attention"
_LIBRARY = torch.library.Library("graphopt", "FRAGMENT")
_LIBRARY.define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, int q_heads=1, int kv_heads=1, "
    "bool is_causal=False, float? scale=None) -> Tensor"
)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    q_heads: int = 1,
    kv_heads: int = 1,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    packed = query.dim() == 3
    if packed:
        query = query.unflatten(-1, (q_heads, -1)).transpose(1, 2)
        key, value = (x.unflatten(-1, (kv_heads, -1)).transpose(1, 2) for x in (key, value))
    y = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
    )
    return y.transpose(1, 2).flatten(2) if packed else y


_LIBRARY.impl("attention", _attention, "CompositeImplicitAutograd")


def _infer(
    query: TensorType,
    key: TensorType,
    value: TensorType,
    attn_mask: TensorType | None,
    q_heads: int,
    kv_heads: int,
    is_causal: bool,
    scale: float | None,
) -> TensorType:
    """As many rows as queries, as many heads, each of the values' size."""
    width = value.shape[-1]
    if query.rank == 4:
        return query.with_shape((*query.shape[:3], width))
    if query.rank != 3 or not isinstance(width, int) or width % kv_heads or q_heads % kv_heads:
        raise Mismatch(f"{q_heads} and {kv_heads} heads do not divide {query!r} and {value!r}")
    return query.with_shape((*query.shape[:2], width // kv_heads * q_heads))


register_torch_op(NAME, (Trait.PURE,), _infer)
