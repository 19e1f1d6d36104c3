"""Attention over the live keys only: what is computed, as a list of calls.

A call computes `blocks` blocks of `rows` queries each, from row `start` on. Block i of it sees, for each segment, the
keys start + i·shift to start + i·shift + length: a window that moves along has shift = rows, keys that every block sees
have shift 0. So a band is a few batched calls on overlapping views of the keys, and nothing is copied:

    queries [blocks, heads, rows, E]     keys [blocks, heads, Σ length, E]     bias [1, heads or 1, rows, Σ length]

The bias is added to the scores of each block. Those of all calls lie side by side, [1 or heads, Σ rows · keys], and a
call holds where its own starts. A call without segments gives zeros, as PyTorch does for a row that hides every key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention


class Segment(NamedTuple):
    """A run of keys, and how far it moves from block to block."""

    start: int
    length: int
    shift: int


class Call(NamedTuple):
    """Blocks of queries that see alike. bias: where the bias starts, -1 if nothing is added to the scores."""

    start: int
    rows: int
    blocks: int
    bias: int
    segments: tuple[Segment, ...]

    @property
    def keys(self) -> int:
        """How many keys each block sees."""
        return sum(segment.length for segment in self.segments)

    @property
    def pairs(self) -> int:
        """How many scores are computed."""
        return self.blocks * self.rows * self.keys


def encode(calls: Iterable[Call]) -> tuple[int, ...]:
    """Calls as numbers, the form in which an operator's attribute holds them.

    >>> encode([Call(0, 4, 2, -1, (Segment(0, 6, 4),))])
    (0, 4, 2, -1, 1, 0, 6, 4)
    """
    found: list[int] = []
    for call in calls:
        found += (call.start, call.rows, call.blocks, call.bias, len(call.segments))
        for segment in call.segments:
            found += segment
    return tuple(found)


@lru_cache(maxsize=256)
def decode(numbers: tuple[int, ...]) -> tuple[Call, ...]:
    """The calls that some numbers stand for.

    Raises:
        ValueError: they stand for none.

    >>> decode((0, 4, 2, -1, 1, 0, 6, 4))[0].pairs
    48
    """
    calls = []
    at = 0
    while at < len(numbers):
        head = numbers[at : at + 5]
        end = at + 5 + 3 * (head[4] if len(head) == 5 else 0)
        if len(head) < 5 or end > len(numbers) or min(head[1:3]) < 1 or head[4] < 0:
            raise ValueError(f"number {at} starts no call of a plan: {list(head)}")
        segments = tuple(Segment(*numbers[i : i + 3]) for i in range(at + 5, end, 3))
        start, rows, blocks, bias, _ = head
        calls.append(Call(start, rows, blocks, bias, segments))
        at = end
    return tuple(calls)


def check_plan(calls: Sequence[Call], queries: int, keys: int) -> None:
    """See that the calls compute each query once, in order, from keys that exist.

    Raises:
        ValueError: they don't.
    """
    row = 0
    for call in calls:
        if call.start != row:
            raise ValueError(f"a call of the plan starts at query {call.start}, not at {row}")
        row += call.rows * call.blocks
        for start, length, shift in call.segments:
            end = start + length + shift * (call.blocks - 1)
            if start < 0 or length < 1 or shift < 0 or end > keys:
                raise ValueError(f"the plan reads keys {start} to {end} of {keys}")
    if row != queries:
        raise ValueError(f"the plan computes {row} queries of {queries}")


def run_plan(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    calls: Sequence[Call],
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention by a plan.

    query [B, H, L, E], key [B, G, S, E], value [B, G, S, F]; H is a multiple of G. bias: the calls' own,
    [H or 1, n]. mask: added to the scores besides, [B or 1, H or 1, L or 1, S]. Returns [B, H, L, F].
    """
    check_plan(calls, query.shape[2], key.shape[2])
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    biases = [None if bias is None or call.bias < 0 else bias_of(bias, call) for call in calls]
    parts = []
    for sample in range(query.shape[0]):
        q, k, v = query[sample], key[sample], value[sample]
        shown = None if mask is None else mask[sample if mask.shape[0] > 1 else 0]
        parts += [_run(q, k, v, call, own, shown, scale) for call, own in zip(calls, biases)]
    if not parts:
        return value.new_empty((*query.shape[:3], value.shape[3]))
    return torch.cat(parts).unflatten(0, (query.shape[0], query.shape[2])).transpose(1, 2)


def _run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    call: Call,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """One call for one sample: [rows · blocks, H, F]."""
    heads, count = q.shape[0], call.rows * call.blocks
    if not call.segments:
        return v.new_zeros((count, heads, v.shape[2]))
    own = q[:, call.start : call.start + count].unflatten(1, (call.blocks, call.rows)).transpose(0, 1)
    if mask is not None:
        shown = _mask(mask, call)
        bias = shown if bias is None else bias + shown
    y = scaled_dot_product_attention(own, _windows(k, call), _windows(v, call), bias, scale=scale)
    return y.transpose(1, 2).flatten(0, 1)


def _windows(x: torch.Tensor, call: Call) -> torch.Tensor:
    """Each block's keys: [H, S, E] → [blocks, H, keys, E], a view where there is one segment."""
    found = []
    for start, length, shift in call.segments:
        if shift:
            span = x[:, start : start + shift * (call.blocks - 1) + length]
            found.append(span.unfold(1, length, shift).permute(1, 0, 3, 2))
        else:
            found.append(x[:, start : start + length].expand(call.blocks, -1, -1, -1))
    return found[0] if len(found) == 1 else torch.cat(found, 2)


def _mask(mask: torch.Tensor, call: Call) -> torch.Tensor:
    """Each block's part of a mask: [H or 1, L or 1, S] → [blocks, H or 1, rows or 1, keys]."""
    if mask.shape[1] == 1:
        return _windows(mask.transpose(1, 2), call).transpose(2, 3)
    found = []
    for block in range(call.blocks):
        row = call.start + block * call.rows
        runs = [(start + block * shift, length) for start, length, shift in call.segments]
        rows = mask[:, row : row + call.rows]
        found.append(torch.cat([rows[:, :, start : start + length] for start, length in runs], 2))
    return torch.stack(found)


def bias_of(bias: torch.Tensor, call: Call) -> torch.Tensor:
    """A call's own bias, [1, H or 1, rows, keys], a view."""
    found = bias[:, call.bias : call.bias + call.rows * call.keys]
    return found.unflatten(1, (call.rows, call.keys)).unsqueeze(0)
