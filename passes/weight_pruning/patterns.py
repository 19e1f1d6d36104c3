"""In what pattern weights go: which units live or die together, and how many of which competitors stay.

    unstructured    every weight for itself
    n:m             of m neighbouring input channels at one position of the kernel, n stay (2:4)
    r x c           blocks of r outputs times c neighbouring input channels live or die together (4x1)

Units at the edge may be smaller: a rest of fewer than m channels keeps at most n, a block may be cut off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from graphopt.errors import GraphOptError

Scope = Literal["row", "layer", "global"]


@dataclass(frozen=True)
class Pattern:
    """A pattern of zeros.

    rows, columns: the size of a block. keep, window: for n:m, n and m; otherwise window is 0.
    """

    rows: int = 1
    columns: int = 1
    keep: int = 0
    window: int = 0

    @property
    def sparsity(self) -> float:
        """What n:m alone says of the share of zeros."""
        return 1 - self.keep / self.window


def parse_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        GraphOptError: text of another form, or n:m with n > m.

    >>> parse_pattern("2:4"), parse_pattern("4x1")
    (Pattern(rows=1, columns=1, keep=2, window=4), Pattern(rows=4, columns=1, keep=0, window=0))
    """
    found = re.fullmatch(r"(\d+)\s*([:x])\s*(\d+)", text.strip())
    if text == "unstructured":
        return Pattern()
    if found is None:
        raise GraphOptError(
            f"pattern {text!r} is not known; write unstructured, n:m such as 2:4, or a block such as 4x1"
        )
    first, second = int(found[1]), int(found[3])
    if found[2] == ":":
        if not 1 <= first <= second:
            raise GraphOptError(f"pattern {text!r} keeps {first} of {second}; it must keep between 1 and all")
        return Pattern(keep=first, window=second)
    if not first or not second:
        raise GraphOptError(f"pattern {text!r}: a block has at least one row and one column")
    return Pattern(first, second)


def masks(
    scores: Sequence[torch.Tensor], channels: Sequence[int], sparsities: Sequence[float], pattern: Pattern, scope: Scope
) -> list[torch.Tensor]:
    """Which weights stay, for layers given by the scores of their matrices [groups, rows, columns].

    channels: how many columns stand side by side, in each layer. sparsities: the share of zeros asked of each layer;
    n:m has its own. scope: who competes: the weights of a row, of a layer, or of all layers together. The number of
    zeros is the nearest that whole units can give. -inf scores go first. Of equal scores the earlier goes first.
    """
    if pattern.window:
        return [_windows(s, n, pattern) for s, n in zip(scores, channels)]
    units = [_Units(s, n, pattern) for s, n in zip(scores, channels)]
    if scope == "global":
        total = sum(u.sizes.sum().item() * sparsity for u, sparsity in zip(units, sparsities))
        values, sizes = torch.cat([u.values.flatten() for u in units]), torch.cat([u.sizes.flatten() for u in units])
        kept = keep_largest(values[None], sizes[None], total)[0].split([u.values.numel() for u in units])
        return [u.expand(k.view_as(u.values)) for u, k in zip(units, kept)]
    return [u.expand(u.select(sparsity, by_row=scope == "row")) for u, sparsity in zip(units, sparsities)]


def keep_largest(values: torch.Tensor, sizes: torch.Tensor, zeros: float) -> torch.Tensor:
    """In each row of `values` [n, units], mark what stays when the smallest go, about `zeros` elements in all."""
    order = values.argsort(dim=-1, stable=True)
    gone = sizes.gather(-1, order).cumsum(-1, dtype=torch.float64)
    # A unit goes if more than half of it is within the number of zeros that is asked for.
    dies = gone - sizes.gather(-1, order) / 2 < zeros - 1e-9
    return torch.ones_like(dies).scatter(-1, order, ~dies)


@dataclass
class _Units:
    """The units of one layer: blocks of a matrix, by kernel position."""

    scores: torch.Tensor
    channels: int
    pattern: Pattern

    def __post_init__(self) -> None:
        rows, columns = self.pattern.rows, self.pattern.columns
        by_position = self.scores.unflatten(-1, (-1, self.channels))  # [groups, rows, positions, channels]
        counts = torch.ones_like(by_position, dtype=torch.float32)
        self.shape = by_position.shape
        if rows == columns == 1:
            self.values, self.sizes = by_position, counts
            return
        self.sizes = _block_sums(counts, rows, columns)
        self.values = _block_sums(by_position, rows, columns) / self.sizes

    def select(self, sparsity: float, *, by_row: bool) -> torch.Tensor:
        """Mark the units that stay."""
        values, sizes = self.values, self.sizes
        shape = (values.shape[0] * values.shape[1], -1) if by_row else (1, -1)
        sizes = sizes.reshape(shape)
        zeros = sizes[0].sum().item() * sparsity
        return keep_largest(values.reshape(shape), sizes, zeros).view_as(values)

    def expand(self, kept: torch.Tensor) -> torch.Tensor:
        """Unit by unit marks as marks of weights, in the form of the scores."""
        if self.pattern.rows > 1:
            kept = kept.repeat_interleave(self.pattern.rows, 1)[:, : self.shape[1]]
        if self.pattern.columns > 1:
            kept = kept.repeat_interleave(self.pattern.columns, 3)[..., : self.shape[3]]
        return kept.reshape(self.scores.shape)


def _block_sums(tensor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Sums over blocks of the axes 1 and 3, the last ones cut off at the edge."""
    groups, height, positions, width = tensor.shape
    padded = F.pad(tensor, (0, -width % columns, 0, 0, 0, -height % rows))
    blocks = padded.reshape(groups, -(-height // rows), rows, positions, -(-width // columns), columns)
    return blocks.sum((2, 5))


def _windows(scores: torch.Tensor, channels: int, pattern: Pattern) -> torch.Tensor:
    """n:m along the channels. Of a rest of fewer than m channels, at most n stay."""
    by_position = scores.unflatten(-1, (-1, channels))
    whole = channels - channels % pattern.window
    full = best_of(by_position[..., :whole].unflatten(-1, (-1, pattern.window)), pattern.keep).flatten(-2)
    rest = best_of(by_position[..., whole:], pattern.keep)
    return torch.cat([full, rest], -1).reshape(scores.shape)


def best_of(values: torch.Tensor, count: int) -> torch.Tensor:
    """Mark the `count` largest along the last axis."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    marks = torch.zeros_like(values, dtype=torch.bool)
    return marks.scatter(-1, order[..., :count], True)


def share(kept: torch.Tensor) -> float:
    """The share of zeros."""
    return 1 - kept.count_nonzero().item() / math.prod(kept.shape) if kept.numel() else 0.0
