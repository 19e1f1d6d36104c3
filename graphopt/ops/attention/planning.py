"""Plans of attention: from a mask that is known, at a cost linear in its size, or from a window.

Queries are cut into blocks of `rows`. A block reads the runs of keys that any of its queries sees; runs that nearly
touch are read as one. Blocks in a row that read alike, up to a shift by their distance, and add the same to their
scores, become one call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch

from graphopt.ops.attention.plan import Call, Segment

HIDDEN = -1e30
"""What is added to a score to hide it: its exponential is 0 in every precision, whatever the score was."""
GAP = 16
"""Runs of keys that are closer than this are read as one."""
ROWS = 64
"""Queries in a block, unless told: the least that keeps the processor's units busy."""


class Planned(NamedTuple):
    """A plan, and the biases of its calls, [1 or heads, n]."""

    calls: tuple[Call, ...]
    bias: torch.Tensor

    @property
    def pairs(self) -> int:
        """How many scores are computed."""
        return sum(call.pairs for call in self.calls)

    @property
    def copied(self) -> int:
        """How many keys are copied: those of blocks that read several runs."""
        return sum(call.blocks * call.keys for call in self.calls if len(call.segments) > 1)


class _Block(NamedTuple):
    """A block of queries: its first, how many, the runs of keys that it reads, and what it adds to the scores."""

    start: int
    rows: int
    runs: tuple[tuple[int, int], ...]
    bias: torch.Tensor | None


def plan_mask(mask: torch.Tensor, rows: int = ROWS) -> Planned:
    """The plan of a mask, [H or 1, L, S], in the way of `scaled_dot_product_attention`: bools say which keys are seen,
    numbers are added to the scores.

    A row that hides every key by −∞ gives zeros; one that hides all by a finite number sees all of them, as the sum
    rounds to that number. What heads see differently is read for all of them.

    Raises:
        ValueError: the mask has not three dims, or holds NaN or +∞.

    >>> ones = torch.ones(1, 256, 256, dtype=torch.bool)
    >>> plan = plan_mask(ones.triu(-32) & ones.tril(32), rows=64)
    >>> [(call.start, call.blocks, call.keys) for call in plan.calls]
    [(0, 1, 96), (64, 2, 128), (192, 1, 96)]
    """
    if mask.dim() != 3:
        raise ValueError(f"a mask has the dims [heads, queries, keys], not {list(mask.shape)}")
    dtype = torch.get_default_dtype() if mask.dtype is torch.bool else mask.dtype
    return _joined(_mask_blocks(mask.detach(), rows, dtype), mask.shape[0], dtype)


def _mask_blocks(mask: torch.Tensor, rows: int, dtype: torch.dtype) -> Iterator[_Block]:
    for start in range(0, mask.shape[1], rows):
        block = mask[:, start : start + rows]
        runs = _runs(_seen(block))
        own = [_additive(block[:, :, first:last], dtype) for first, last in runs]
        added = torch.cat(own, 2) if own else None
        yield _Block(start, block.shape[1], runs, None if added is None or not bool(added.any()) else added)


def _seen(block: torch.Tensor) -> torch.Tensor:
    """The keys that some query of a block sees: [heads, rows, keys] → bool [keys]."""
    if block.dtype is torch.bool:
        return block.amax((0, 1))
    if not bool((block < float("inf")).all()):
        raise ValueError("the mask holds NaN or +∞")
    seen = block > HIDDEN
    blind = ~seen.any(-1)
    if bool(blind.any()):
        seen |= (block > float("-inf")) & blind.unsqueeze(-1)
    return seen.amax((0, 1))


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))


def _runs(columns: torch.Tensor) -> tuple[tuple[int, int], ...]:
    """The first and the one behind the last of each run of true elements."""
    edges = torch.nn.functional.pad(columns.to(torch.int8), (1, 1)).diff()
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return _near_joined(zip(starts, ends))


def _near_joined(runs: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Runs in order, with those that overlap or nearly touch read as one."""
    joined: list[tuple[int, int]] = []
    for first, last in runs:
        if joined and first - joined[-1][1] < GAP:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return tuple(joined)


@lru_cache(maxsize=64)
def plan_window(queries: int, keys: int, left: int, right: int, tokens: int = 0, rows: int = ROWS) -> Planned:
    """The plan by which query i sees the keys i − left to i + right. The first `tokens` queries see every key, and each
    query sees the first `tokens` keys.

    >>> plan_window(256, 256, left=32, right=32).pairs
    28672
    """
    return _joined(_window_blocks(queries, keys, left, right, tokens, rows), 1, torch.float32)


def _window_blocks(queries: int, keys: int, left: int, right: int, tokens: int, rows: int) -> Iterator[_Block]:
    for start in range(0, queries, rows):
        count = min(rows, queries - start)
        window = (max(start - left, 0), min(start + count + right, keys))
        runs = [(0, keys)] if start < tokens else [(0, min(tokens, keys)), window]
        joined = _near_joined((first, last) for first, last in runs if first < last)
        own = [window_shown(range(start, start + count), range(*run), left, right, tokens) for run in joined]
        shown = torch.cat(own, 1) if own else torch.ones(0, dtype=torch.bool)
        bias = torch.zeros(1, *shown.shape).masked_fill_(~shown, float("-inf"))
        yield _Block(start, count, joined, None if bool(shown.all()) else bias)


def window_shown(queries: range, keys: range, left: int, right: int, tokens: int) -> torch.Tensor:
    """Which keys each query sees: bool [queries, keys]."""
    row, column = torch.tensor(queries).unsqueeze(1), torch.tensor(keys).unsqueeze(0)
    near = (column >= row - left) & (column <= row + right)
    return near | (row < tokens) | (column < tokens)


def _joined(blocks: Iterator[_Block], heads: int, dtype: torch.dtype) -> Planned:
    """One call for blocks in a row that read alike; a bias that several calls have is held once."""
    calls: list[Call] = []
    biases: list[torch.Tensor] = []
    places: dict[bytes, int] = {}
    length = 0
    for block in blocks:
        place = -1
        if block.bias is not None:
            content = block.bias.contiguous().view(torch.uint8).numpy().tobytes()
            place = places.setdefault(content, length)
            if place == length:
                biases.append(block.bias.flatten(1))
                length += block.bias[0].numel()
        longer = _extended(calls[-1], block, place) if calls else None
        if longer is not None:
            calls[-1] = longer
        else:
            calls.append(Call(block.start, block.rows, 1, place, tuple(Segment(a, b - a, 0) for a, b in block.runs)))
    bias = torch.cat(biases, 1) if biases else torch.zeros(heads, 0, dtype=dtype)
    return Planned(tuple(calls), bias)


def _extended(call: Call, block: _Block, place: int) -> Call | None:
    """The call with one more block, or None if it reads otherwise."""
    if (call.rows, call.bias, len(call.segments)) != (block.rows, place, len(block.runs)):
        return None
    segments = []
    for (start, length, shift), (first, last) in zip(call.segments, block.runs):
        step = (first - start) // call.blocks
        if last - first != length or step not in (0, call.rows) or start + step * call.blocks != first:
            return None
        if call.blocks > 1 and step != shift:
            return None
        segments.append(Segment(start, length, step))
    return call._replace(blocks=call.blocks + 1, segments=tuple(segments))
