"""Attention that leaves keys out, in standard operators: the keys of blocks are gathered by constant indices."""

from __future__ import annotations

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.attention import additive, attend
from graphopt.backends.onnx.lowerings.common import static
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import concat, counting, full, reshape, slice_, unsqueeze
from graphopt.ir import DType
from graphopt.ops.attention import Call as Planned
from graphopt.ops.attention import Segment, decode, plan_window
from graphopt.ops.attention.window import rows_for


@lowers("graphopt.block_sparse_attention")
def _lower_block_sparse(e: Emitter, a: Call) -> Tensor:
    return _by_plan(e, a, decode(tuple(a.plan)), a.bias, None)


@lowers("graphopt.window_attention")
def _lower_window(e: Emitter, a: Call) -> Tensor:
    """By a plan where the sizes are known. Else the whole with a mask: the same numbers at the whole's cost."""
    length, keys = static(a.query.dims[2]), static(a.key.dims[2])
    if length is None or keys is None:
        return _whole_window(e, a)
    planned = plan_window(length, keys, a.left, a.right, a.tokens, rows_for(a.left, a.right))
    bias = e.constant(planned.bias.to(a.query.dtype.torch), "window_bias") if planned.bias.numel() else None
    return _by_plan(e, a, planned.calls, bias, a.attn_mask)


def _by_plan(e: Emitter, a: Call, calls: tuple[Planned, ...], bias: Tensor | None, mask: Tensor | None) -> Tensor:
    if mask is not None:
        mask = additive(e, reshape(e, mask, (1,) * (4 - mask.rank) + mask.dims), a.query.dtype)
    key, value = (_for_each_head(e, x, a.query) for x in (a.key, a.value))
    parts = [_call(e, a, key, value, call, bias, mask) for call in calls]
    return concat(e, parts, 2) if len(parts) != 1 else parts[0]


def _for_each_head(e: Emitter, x: Tensor, query: Tensor) -> Tensor:
    """Keys or values repeated for the heads that share them."""
    heads, shared = static(query.dims[1]), static(x.dims[1])
    if heads is None or shared is None:
        raise Declined("attention by a plan over an unknown number of heads")
    if heads == shared:
        return x
    index = e.ints([head // (heads // shared) for head in range(heads)])
    return e.op("Gather", x, index, axis=1, shape=(x.dims[0], heads, *x.dims[2:]))


def _call(
    e: Emitter, a: Call, key: Tensor, value: Tensor, call: Planned, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    batch, heads, _, width = a.query.dims
    count = call.rows * call.blocks
    shape = (batch, heads, count, value.dims[3])
    if not call.segments:
        return full(e, shape, 0.0, value.dtype)
    query = slice_(e, a.query, 2, call.start, call.start + count, size=count)
    query = reshape(e, query, (batch, heads, call.blocks, call.rows, width))
    keys, values = (_windows(e, x, call, 2) for x in (key, value))
    added = None
    if bias is not None and call.bias >= 0:
        added = _bias(e, bias, call)
    if mask is not None:
        shown = _mask(e, mask, call)
        added = shown if added is None else e.op("Add", added, shown)
    result = attend(e, query, keys, values, added, a.scale, may_be_empty=True)[0]
    return reshape(e, result, shape)


def _windows(e: Emitter, x: Tensor, call: Planned, axis: int) -> Tensor:
    """Each block's keys: the axis of all keys becomes two, of blocks and of the keys of each."""
    if len(call.segments) == 1 and (call.blocks == 1 or not call.segments[0].shift):
        start, length, _ = call.segments[0]
        return unsqueeze(e, slice_(e, x, axis, start, start + length, size=length), [axis])
    index = torch.cat([_indices(segment, call.blocks) for segment in call.segments], 1)
    found = e.once(("keys of blocks", call.segments, call.blocks), lambda: e.constant(index, "keys_of_blocks"))
    return e.op("Gather", x, found, axis=axis, shape=(*x.dims[:axis], *index.shape, *x.dims[axis + 1 :]))


def _indices(segment: Segment, blocks: int) -> torch.Tensor:
    first = segment.start + segment.shift * torch.arange(blocks)
    return first.unsqueeze(1) + torch.arange(segment.length)


def _bias(e: Emitter, bias: Tensor, call: Planned) -> Tensor:
    """What a call adds: [heads or 1, 1, rows, keys]."""
    size = call.rows * call.keys
    if bias.data is None:
        found = slice_(e, bias, 1, call.bias, call.bias + size, size=size)
        return reshape(e, found, (bias.dims[0], 1, call.rows, call.keys))
    return e.derived(
        bias,
        f"at_{call.bias}",
        lambda data: data[:, call.bias : call.bias + size].unflatten(1, (1, call.rows, call.keys)).contiguous(),
    )


def _mask(e: Emitter, mask: Tensor, call: Planned) -> Tensor:
    """Each block's part of a mask: [B or 1, H or 1, L or 1, S] → [B or 1, H or 1, blocks, L or 1, keys]."""
    if mask.dims[2] == 1:
        return unsqueeze(e, _windows(e, reshape(e, mask, (*mask.dims[:2], mask.dims[3])), call, 2), [3])
    parts = []
    for block in range(call.blocks):
        row = call.start + block * call.rows
        rows = slice_(e, mask, 2, row, row + call.rows, size=call.rows)
        runs = [(start + block * shift, length) for start, length, shift in call.segments]
        keys = [slice_(e, rows, 3, start, start + length, size=length) for start, length in runs]
        parts.append(unsqueeze(e, concat(e, keys, 3), [2]))
    return concat(e, parts, 2)


def _whole_window(e: Emitter, a: Call) -> Tensor:
    length, keys = a.query.dims[2], a.key.dims[2]
    row, column = unsqueeze(e, counting(e, length), [1]), unsqueeze(e, counting(e, keys), [0])
    shape = (length, keys)
    apart = e.op("Sub", column, row, shape=shape)
    near = e.op(
        "And",
        e.op("GreaterOrEqual", apart, -a.left, dtype=DType.BOOL, shape=shape),
        e.op("LessOrEqual", apart, a.right, dtype=DType.BOOL, shape=shape),
        shape=shape,
    )
    if a.tokens:
        first = [e.op("Less", x, a.tokens, dtype=DType.BOOL, shape=x.dims) for x in (row, column)]
        near = e.op("Or", near, e.op("Or", *first, shape=shape), shape=shape)
    mask = additive(e, near, a.query.dtype)
    if a.attn_mask is not None:
        mask = e.op("Add", mask, additive(e, a.attn_mask, a.query.dtype))
    return attend(e, a.query, a.key, a.value, mask, a.scale, may_be_empty=True)[0]
