"""Which of the waiting requests run together next."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
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

    The oldest is always among them, so none starves. Of the common lengths that some request suggests, the one is taken
    whose batch does most work of its own for its time:

        max over lengths L of   Σ rows_i · |sizes_i|  /  t(Σ rows_i · |L|)

    seconds: what the batch may take; the oldest runs even if that is not enough.
    """
    window = list(islice(queue, WINDOW * policy.max_rows))
    oldest = window[0]
    best: tuple[float, list[R], Sizes] | None = None
    for bound in _bounds(window, oldest, policy):
        batch = _fill(window, oldest, bound, policy, latency, seconds)
        sizes = policy.round_up(tuple(map(max, zip(*(r.sizes for r in batch)))))
        own = sum(r.rows * prod(r.sizes) for r in batch)
        total = sum(r.rows for r in batch) * prod(sizes)
        value = own / (latency.predict(total) or total or 1)
        if best is None or value > best[0]:
            best = value, batch, sizes
    assert best is not None
    return best[1], best[2]


def _bounds(window: Iterable[Waiting], oldest: Waiting, policy: Policy) -> list[Sizes]:
    """The lengths up to which requests may be filled up, the oldest's own first."""
    if not policy.pads:
        return [oldest.sizes]
    suggested = {tuple(map(max, zip(oldest.sizes, r.sizes))) for r in window} if oldest.sizes else {()}
    ordered = sorted(suggested, key=prod)
    step = max(1, -(-len(ordered) // BOUNDS))
    return list(dict.fromkeys([ordered[0], *ordered[::-1][::step][::-1]]))


def _fill(
    window: Iterable[R], oldest: R, bound: Sizes, policy: Policy, latency: LatencyModel, seconds: float
) -> list[R]:
    """The oldest and, in order of arrival, whatever else fits; a caller's later request never passes an earlier one."""
    batch, rows, passed = [oldest], oldest.rows, set()
    each = prod(policy.round_up(bound))
    for request in window:
        if request is oldest:
            continue
        fits = (
            request.caller not in passed
            and rows + request.rows <= policy.max_rows
            and (all(map(_at_most, request.sizes, bound)) if policy.pads else request.sizes == bound)
            and latency.predict((rows + request.rows) * each) <= seconds
        )
        if fits:
            batch.append(request)
            rows += request.rows
        elif request.caller is not None:
            passed.add(request.caller)
        if rows >= policy.max_rows:
            break
    return batch


def _at_most(size: int, bound: int) -> bool:
    return size <= bound
