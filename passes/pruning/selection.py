"""From scores to the channels that go: scopes, ratios, minimum widths and rounding.

Each group has an order in which its channels go, least important first, and a limit: so many may go that every dim
that they appear in keeps its minimum width. A plan is a function of one number, the share of channels to remove, and
monotone in it; so a budget is met by bisection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, gcd, lcm
from typing import Literal

import numpy as np

from graphopt.analysis.channels import Group
from graphopt.errors import GraphOptError

Scope = Literal["local", "global", "isomorphic"]
Selection = dict[str, np.ndarray]
"""Which channels go, by the name of their group: True for each that is removed."""


@dataclass(frozen=True)
class Limits:
    """What a selection must leave: min_width slots in each dim, and a multiple of round_to slots, at full width or
    below."""

    min_width: int = 1
    round_to: int = 1

    def __post_init__(self) -> None:
        for name, value in (("min_width", self.min_width), ("round_to", self.round_to)):
            if value < 1:
                raise GraphOptError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Candidate:
    """A group that may be pruned.

    scores: of its channels. kept: channels that must stay, whatever their scores. gone: how many channels it has lost
    in earlier steps; shares count against the width that it had before them.
    """

    group: Group
    scores: np.ndarray
    limits: Limits
    kept: np.ndarray | None = None
    gone: int = 0

    @property
    def width(self) -> int:
        """The number of channels that shares count against."""
        return self.group.size + self.gone

    @cached_property
    def order(self) -> np.ndarray:
        """The channels in the order in which they go; those that must stay come last."""
        return np.lexsort((self.scores, self._must_stay))

    @cached_property
    def limit(self) -> int:
        """The most channels that may go."""
        return self.rounded(self.group.size - int(self._must_stay.sum()))

    def rounded(self, count: int) -> int:
        """The number of channels to remove that is nearest to `count` and leaves a rounded width, at least that of
        what must stay."""
        size, step = self.group.size, self._step
        if count <= 0:
            return 0
        least = -(-int(self._must_stay.sum()) // step) * step
        kept = max(int((size - count) / step + 0.5) * step, least, step)
        return max(size - kept, 0)

    def removed(self, count: int) -> np.ndarray:
        """True for the first `count` channels of the order."""
        gone = np.zeros(self.group.size, dtype=bool)
        gone[self.order[:count]] = True
        return gone

    @cached_property
    def _must_stay(self) -> np.ndarray:
        """The best channels of each dim, as many as its minimum width needs."""
        stay = np.zeros(self.group.size, dtype=bool) if self.kept is None else self.kept.copy()
        least = -(-self.limits.min_width // min(self._slots))
        for axis in self.group.axes:
            # What stays anyway is counted first.
            best_first = axis.channels[np.lexsort((-self.scores[axis.channels], ~stay[axis.channels]))]
            stay[best_first[:least]] = True
        return stay

    @cached_property
    def _step(self) -> int:
        """The number of channels whose widths are multiples of round_to."""
        return lcm(*(self.limits.round_to // gcd(self.limits.round_to, slots) for slots in self._slots))

    @cached_property
    def _slots(self) -> list[int]:
        """How many neighbouring slots a channel has, in each dim that makes it: the head's size for a head."""
        makers = [m.channels for m in self.group.members if m.role.makes]
        return [_first_run(channels) for channels in makers] or [1]


class Plan:
    """How many channels of each group go, as a function of the share to remove.

    scope: "local" removes that share of each group; "global" the least important of all groups, and "isomorphic" of all
    groups of the same structure. fixed: groups with a share of their own.
    """

    def __init__(
        self, candidates: Sequence[Candidate], scope: Scope = "local", fixed: Mapping[str, float] | None = None
    ) -> None:
        self.fixed = dict(fixed or {})
        self.candidates = list(candidates)
        free = [c for c in self.candidates if c.group.name not in self.fixed]
        self._pools = [_Pool(pool) for pool in _pools(free, scope)]

    def counts(self, share: float) -> dict[str, int]:
        """The number of channels of each group that go, rounded and within the limits."""
        wanted = self._wanted(share)
        return {c.group.name: min(c.rounded(wanted[c.group.name]), c.limit) for c in self.candidates}

    def held(self, share: float) -> list[Candidate]:
        """The groups of which some channels would go, but for the limits."""
        wanted, counts = self._wanted(share), self.counts(share)
        return [c for c in self.candidates if wanted[c.group.name] > 0 and not counts[c.group.name]]

    def _wanted(self, share: float) -> dict[str, int]:
        wanted = {c.group.name: nearest(self.fixed.get(c.group.name, 0.0) * c.width) - c.gone for c in self.candidates}
        for pool in self._pools:
            wanted.update(pool.counts(share))
        return wanted

    def select(self, share: float) -> Selection:
        """The channels that go; groups of which none does are left out."""
        counts = self.counts(share)
        return {c.group.name: c.removed(counts[c.group.name]) for c in self.candidates if counts[c.group.name]}

    def steps(self) -> int:
        """The number of channels that a share counts against: shares closer than its inverse select the same."""
        return sum(c.width for c in self.candidates)


class _Pool:
    """Groups that compete: their channels in one order."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.total = sum(c.width for c in candidates)
        self.gone = sum(c.gone for c in candidates)
        owners = [np.full(c.group.size, i) for i, c in enumerate(candidates)]
        # A channel that must stay counts, but never goes: it ranks behind all others.
        ranks = [np.where(c._must_stay, np.inf, c.scores) for c in candidates]
        order = np.argsort(np.concatenate(ranks), kind="stable") if candidates else np.zeros(0, dtype=int)
        self.owners = np.concatenate(owners)[order] if candidates else order

    def counts(self, share: float) -> dict[str, int]:
        count = max(nearest(share * self.total) - self.gone, 0)
        found = np.bincount(self.owners[:count], minlength=len(self.candidates))
        return {c.group.name: int(n) for c, n in zip(self.candidates, found)}


def _pools(candidates: Sequence[Candidate], scope: Scope) -> list[list[Candidate]]:
    if scope == "global":
        return [list(candidates)] if candidates else []
    if scope == "local":
        return [[c] for c in candidates]
    alike: dict[object, list[Candidate]] = {}
    for candidate in candidates:
        alike.setdefault(candidate.group.fingerprint, []).append(candidate)
    return list(alike.values())


def nearest(count: float) -> int:
    """The whole number nearest to a number of channels to remove; of two, the one that removes less."""
    return ceil(count - 0.5)


def _first_run(channels: np.ndarray) -> int:
    """The length of the first row of equal entries, leaving out slots that are no channel."""
    live = channels[channels >= 0]
    changes = np.flatnonzero(live[1:] != live[:-1])
    return int(changes[0]) + 1 if changes.size else max(len(live), 1)
