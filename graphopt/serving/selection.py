"""Which of the waiting requests run together next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Protocol, TypeVar

from graphopt.serving.latency import LatencyModel
from graphopt.serving.layout import Sizes

WINDOW = 4
"""So many batches' worth of waiting requests are looked at."""

BOUNDS = 8
"""So many common lengths are tried for a batch."""


class Waiting(Protocol):
    """What selection knows of a request: its rows, its lengths, and the caller whose requests keep their order."""

    rows: int
    sizes: Sizes
    caller: Hashable


R = TypeVar("R", bound=Waiting)


@dataclass(frozen=True)
class Policy:
    """max_rows: of a batch. pads: whether requests of other lengths may be filled up. round_up: the length that a
    batch of given lengths gets."""

    max_rows: int
    pads: bool
    round_up: Callable[[Sizes], Sizes] = field(default=lambda sizes: sizes)


def choose(queue: Sequence[R], policy: Policy, latency: LatencyModel, seconds: float) -> tuple[list[R], Sizes]:
    """Return the requests that run next, in order of arrival, and the lengths that they are filled up to.

    The oldest is always among them, so none starves. Of the common lengths L that some request suggests, and of the
    requests that fit, the longest first, those are taken that keep everyone who waits the shortest time in all. A batch
    of n among q that wait takes t = t(rows · |L|) from all q; the m = q − n others, with work W left, then go at the
    same pace, t for the batch's own work w:

        min   q·t  +  (m + 1)/2 · W · t/w

    With few waiting that favours small batches, which answer soon; with many, those that do most for their time.

    seconds: what the batch may take; the oldest runs even if that is not enough.
    """
    window = list(islice(queue, WINDOW * policy.max_rows))
    oldest = window[0]
    total = sum(_work(request) for request in window)
    longest = [oldest, *sorted(window[1:], key=_work, reverse=True)]
    best: tuple[float, int, list[R], Sizes] | None = None
    for bound in _bounds(window, oldest, policy):
        batch: list[R] = []
        rows, own, sizes = 0, 0, oldest.sizes
        for request in _fitting(window, longest, bound, policy):
            batch.append(request)
            rows, own = rows + request.rows, own + _work(request)
            sizes = tuple(map(max, sizes, request.sizes))
            time = latency.predict(rows * prod(policy.round_up(sizes)))
            if len(batch) > 1 and time > seconds:
                break
            others = len(window) - len(batch)
            waits = time * (len(window) + (others + 1) / 2 * (total - own) / max(own, 1))
            if best is None or (waits, -len(batch)) < best[:2]:
                best = waits, -len(batch), list(batch), policy.round_up(sizes)
    assert best is not None
    chosen = set(map(id, best[2]))
    return [request for request in window if id(request) in chosen], best[3]


def _work(request: Waiting) -> int:
    return request.rows * prod(request.sizes)


def _bounds(window: Iterable[Waiting], oldest: Waiting, policy: Policy) -> list[Sizes]:
    """The lengths up to which requests may be filled up, the oldest's own first."""
    if not policy.pads:
        return [oldest.sizes]
    suggested = {tuple(map(max, zip(oldest.sizes, r.sizes))) for r in window} if oldest.sizes else {()}
    ordered = sorted(suggested, key=prod)
    step = max(1, -(-len(ordered) // BOUNDS))
    return list(dict.fromkeys([ordered[0], *ordered[::-1][::step][::-1]]))


def _fitting(window: Iterable[R], longest: Iterable[R], bound: Sizes, policy: Policy) -> Iterator[R]:
    """The oldest, then what else fits, the longest first; a caller's later request never passes an earlier one."""
    lines: dict[Hashable, deque[R]] = {}
    for request in window:
        if request.caller is not None:
            lines.setdefault(request.caller, deque()).append(request)
    rows = 0
    for request in longest:
        line = lines.get(request.caller)
        fits = all(map(_at_most, request.sizes, bound)) if policy.pads else request.sizes == bound
        room = not rows or rows + request.rows <= policy.max_rows
        if fits and room and (line is None or line[0] is request):
            if line is not None:
                line.popleft()
            rows += request.rows
            yield request
        if rows >= policy.max_rows:
            return


def _at_most(size: int, bound: int) -> bool:
    return size <= bound
