"""Scaled dot-product attention: the operator from opset 23 on, else the products and softmax that runtimes fuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import static
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import counting, expand, reshape, swap, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import Dim, known_equal, product, shapes_known_equal

WHOLE = 23
"""The opset from which on attention is an operator."""
FOLD_LIMIT = 1 << 16
"""Causal masks of at most this many elements are stored, larger ones are computed."""


@lowers("aten.scaled_dot_product_attention")
def _lower_attention(e: Emitter, a: Call) -> Tensor:
    """`softmax(q kᵀ · scale + mask) v`. Dropout vanishes: an emitted graph evaluates."""
    mask = a.attn_mask
    if e.opset >= WHOLE and a.query.rank == 4 and a.query.dtype is DType.F32 and (mask is None or mask.rank >= 2):
        return whole(e, a.query, a.key, a.value, mask, a.out.shape, is_causal=a.is_causal, scale=a.scale)
    if a.is_causal:
        mask = causal_mask(e, a.query.dims[-2], a.key.dims[-2], a.query.dtype)
    return attend(e, a.query, a.key, a.value, mask, a.scale, may_be_empty=not a.is_causal)[0]


@lowers("graphopt.attention")
def _lower_whole_attention(e: Emitter, a: Call) -> Tensor:
    """Heads apart, or side by side."""
    if e.opset < WHOLE:
        raise Declined(f"attention is an operator from opset {WHOLE} on")
    heads = {"q_num_heads": a.q_heads, "kv_num_heads": a.kv_heads} if a.query.rank == 3 else {}
    options = {"is_causal": a.is_causal, "scale": a.scale, **heads}
    return whole(e, a.query, a.key, a.value, a.attn_mask, a.out.shape, **options)


def whole(
    e: Emitter, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, shape: Sequence[Dim], **options: Any
) -> Tensor:
    """The operator. Of a mask it wants every row and column; a row without a key gives 0, as in PyTorch."""
    if mask is not None:
        mask = _above_lowest(e, mask)
        rows, columns = q.dims[-2] if q.rank == 4 else q.dims[1], k.dims[-2] if k.rank == 4 else k.dims[1]
        full = (*mask.dims[:-2], rows, columns)
        mask = mask if shapes_known_equal(mask.dims, full) else _spread(e, mask, full)
    options["is_causal"] = int(options["is_causal"]) or None
    options["scale"] = float(options["scale"]) if options["scale"] is not None else None
    return e.op("Attention", q, k, v, mask, shape=shape, **options)


def _above_lowest(e: Emitter, mask: Tensor) -> Tensor:
    """ONNX Runtime takes the lowest number for minus infinity. But a row of it, as transformers mask where no key is to
    be seen, gives the mean of all values: the scores vanish beside it. So a mask shrinks by half an ulp.
    """
    if mask.dtype is DType.BOOL:
        return mask
    info = torch.finfo(mask.dtype.torch)
    factor = 1 - info.eps / 2
    if mask.data is None:
        return e.once(("above lowest", mask), lambda: e.op("Mul", mask, factor, shape=mask.dims))
    if not bool((mask.data == info.min).any()):
        return mask
    return e.derived(mask, "above_lowest", lambda data: torch.where(data == info.min, data * factor, data))


def _spread(e: Emitter, mask: Tensor, shape: tuple[Dim, ...]) -> Tensor:
    return e.once(("spread", mask, shape), lambda: expand(e, mask, shape))


@lowers("aten._scaled_dot_product_flash_attention_for_cpu")
def _lower_fused_attention(e: Emitter, a: Call) -> Sequence[Tensor]:
    """The kernel that PyTorch picks; it also returns the logarithm of each row's sum of exponentials."""
    mask = a.attn_mask
    if a.is_causal:
        mask = causal_mask(e, a.query.dims[-2], a.key.dims[-2], a.query.dtype)
    y, scores = attend(e, a.query, a.key, a.value, mask, a.scale, may_be_empty=not a.is_causal)
    return y, e.op("ReduceLogSumExp", scores, [scores.rank - 1], keepdims=0)


def attend(
    e: Emitter, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, may_be_empty: bool
) -> tuple[Tensor, Tensor]:
    """Attention over the last two dims: the result, and the masked scores.

    may_be_empty: a row of the mask may hide every key. Its softmax is 0/0, its output 0 as in PyTorch.
    """
    depth = static(q.dims[-1])
    if scale is None and depth is None:
        raise Declined("attention over heads of dynamic size without a scale")
    factor = float(depth or 1) ** -0.5 if scale is None else float(scale)
    groups = _groups(q, k)
    scores = _scores(e, q, k, factor, groups)
    visible = None
    if mask is not None:
        scores = e.op("Add", scores, additive(e, mask, q.dtype), shape=scores.dims)
        visible = _visible_rows(e, mask) if may_be_empty else None
    weights = e.op("Softmax", scores, axis=-1, shape=scores.dims)
    y = _weighted(e, weights, v, groups)
    if visible is not None:
        y = e.op("Where", visible, y, e.scalar(0.0, y.dtype))
    return y, scores


def _groups(q: Tensor, k: Tensor) -> int:
    """How many query heads share a key head."""
    if q.rank < 3 or known_equal(q.dims[-3], k.dims[-3]) or k.dims[-3] == 1:
        return 1
    heads, shared = static(q.dims[-3]), static(k.dims[-3])
    if heads is None or not shared:
        raise Declined("grouped attention with a dynamic number of heads")
    return heads // shared if shared and heads % shared == 0 else 1


def _scores(e: Emitter, q: Tensor, k: Tensor, factor: float, groups: int) -> Tensor:
    """`q kᵀ · factor` of shape `[..., heads, L, S]`. Heads that share a key are one taller matrix, so that no key is
    copied."""
    length, keys = q.dims[-2], k.dims[-2]
    shape = (*q.dims[:-1], keys)
    if groups > 1:
        q = reshape(e, q, (*q.dims[:-3], k.dims[-3], groups * length, q.dims[-1]))
    product_shape = (*q.dims[:-1], keys)
    scores = e.op("MatMul", q, swap(e, k, -1, -2), shape=product_shape)
    scores = e.op("Mul", scores, factor, shape=product_shape)
    return reshape(e, scores, shape)


def _weighted(e: Emitter, weights: Tensor, v: Tensor, groups: int) -> Tensor:
    shape = (*weights.dims[:-1], v.dims[-1])
    if groups > 1:
        weights = reshape(e, weights, (*weights.dims[:-3], v.dims[-3], groups * weights.dims[-2], weights.dims[-1]))
    y = e.op("MatMul", weights, v, shape=(*weights.dims[:-1], v.dims[-1]))
    return reshape(e, y, shape)


def additive(e: Emitter, mask: Tensor, dtype: DType) -> Tensor:
    """A mask to add to the scores: 0 where a bool mask is true, minus infinity where it is false. Made once."""
    if mask.dtype is not DType.BOOL:
        return e.cast(mask, dtype)
    return e.once(
        ("additive", mask, dtype),
        lambda: e.op("Where", mask, e.scalar(0.0, dtype), e.scalar(float("-inf"), dtype), shape=mask.dims),
    )


def _visible_rows(e: Emitter, mask: Tensor) -> Tensor | None:
    """Where a row of the mask shows any key, as bool `[..., L, 1]`; None if a stored mask shows one in every row."""
    if mask.data is not None:
        data = mask.data if mask.dtype is DType.BOOL else mask.data > float("-inf")
        if bool(data.any(-1).all()):
            return None
    return e.once(("visible", mask), lambda: _any_visible(e, mask))


def _any_visible(e: Emitter, mask: Tensor) -> Tensor:
    shape = (*mask.dims[:-1], 1)
    if mask.dtype is DType.BOOL:
        count = e.op("ReduceSum", e.cast(mask, DType.I32), [mask.rank - 1], keepdims=1, shape=shape)
        return e.cast(count, DType.BOOL)
    largest = e.op("ReduceMax", mask, [mask.rank - 1], keepdims=1, shape=shape)
    return e.op("Greater", largest, float("-inf"), dtype=DType.BOOL, shape=shape)


def causal_mask(e: Emitter, length: Dim, keys: Dim, dtype: DType) -> Tensor:
    """Row i sees the keys 0 to i: minus infinity above the diagonal. Made once for each size."""
    return e.once(("causal", length, keys, dtype), lambda: _causal(e, length, keys, dtype))


def _causal(e: Emitter, length: Dim, keys: Dim, dtype: DType) -> Tensor:
    size = product((length, keys))
    if isinstance(size, int) and size <= FOLD_LIMIT:
        full: Any = torch.full((length, keys), float("-inf"), dtype=dtype.torch)  # type: ignore[arg-type]
        return e.constant(full.triu(1), "causal_mask")
    rows, columns = counting(e, length), counting(e, keys)
    hidden = e.op("Greater", columns, unsqueeze(e, rows, [1]), dtype=DType.BOOL, shape=(length, keys))
    return e.op("Where", hidden, e.scalar(float("-inf"), dtype), e.scalar(0.0, dtype), shape=(length, keys))
