"""Budgets: how much to remove for a given share of the multiply-adds, of the parameters, or of the latency.

What remains falls with the share of channels that go, so bisection finds the least share that meets a budget. Latency
is measured: multiply-adds predict where to look, and each measurement corrects the prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log, sqrt
from typing import NamedTuple

from graphopt.errors import GraphOptError
from graphopt.passes.pruning.selection import Plan, Selection
from graphopt.passes.pruning.size import Costs

TOLERANCE = 0.05
"""How near a measured speed-up must come to the one asked for; the search goes on until it does, or is at its end."""

ACCEPTED = 0.10
"""What is accepted at the end of the search."""

MEASUREMENTS = 8
"""Measurements in a search, at most."""

SEARCHES = 2
"""A search that ends far from the target may have been led astray by a busy machine, and starts again."""


@dataclass(frozen=True)
class Found:
    """The share that meets a budget, and what it gives: the share of the original that remains, or the speed-up."""

    share: float
    given: float


class Unreachable(GraphOptError):
    """A budget that no selection within the limits meets; the message names the best that one does."""


def for_size(plan: Plan, costs: Costs, name: str, target: float, besides: Selection) -> Found:
    """Return the least share whose pruned graph has at most `target` of the original's `name` (a field of `Size`).

    besides: what goes in any case.

    Raises:
        Unreachable: none does.
    """
    whole = getattr(costs.size({}), name)
    if not whole:
        raise GraphOptError(f"the graph has no {name}, so there is no share of them to keep")

    def left(share: float) -> float:
        return getattr(costs.size({**plan.select(share), **besides}), name) / whole

    best = left(1.0)
    if best > target:
        raise Unreachable(
            f"{name}={target:g} cannot be reached: the best is {name}={askable(best)}, with every group at its minimum "
            "width; ask for that, lower min_width or round_to, or ignore less"
        )
    share = least_share(plan, lambda share: left(share) <= target)
    return Found(share, left(share))


def askable(share: float) -> str:
    """A share of what is left as text, rounded up: who asks for what is printed gets it.

    >>> askable(0.27408621), askable(1.0)
    ('0.2741', '1')
    """
    return f"{min(ceil(share * 1e4) / 1e4, 1.0):g}"


def for_speed(
    plan: Plan, costs: Costs, target: float, measure: Callable[[Selection], float], besides: Selection
) -> Found:
    """Return a share whose pruned graph is `target` times as fast as the original, within `ACCEPTED`.

    measure: gives the speed-up of a selection. besides: what goes in any case.

    Raises:
        Unreachable: not even the smallest graph is that fast, or none comes near enough.
    """
    curve = _Work(plan, costs, besides)
    found: list[Found] = []
    for _ in range(SEARCHES):
        found += _search(curve, target, measure)
        nearest = min(found, key=lambda f: abs(log(f.given / target)))
        if abs(nearest.given / target - 1) <= ACCEPTED:
            return nearest
    word = "nearest" if any(f.given >= target for f in found) else "best"
    raise Unreachable(
        f"speedup={target:g} cannot be reached: the {word} is speedup={nearest.given:.3g}, with {nearest.share:.0%} of "
        "the channels removed; ask for that, lower min_width or round_to, or ignore less"
    )


def _search(curve: _Work, target: float, measure: Callable[[Selection], float]) -> list[Found]:
    """Measure nearer and nearer to a target, until near enough or until nothing is left between two neighbours."""
    slow, fast = Point(0.0, 0.0), None
    tried: dict[tuple[int, ...], Found] = {}
    for _ in range(MEASUREMENTS):
        share = curve.share(_aim(slow, fast, log(target), curve.most))
        if curve.counts(share) in tried:
            share = curve.share(slow.work + 1e-6)  # the next that saves more than what is too slow
        if curve.counts(share) in tried:
            break
        given = max(measure(curve.selection(share)), 1e-9)
        if abs(given / target - 1) <= TOLERANCE:  # measured twice, lest a busy moment decide
            given = sqrt(given * max(measure(curve.selection(share)), 1e-9))
        tried[curve.counts(share)] = Found(share, given)
        if abs(given / target - 1) <= TOLERANCE:
            break
        point = Point(curve.saved(share), log(given))
        slow, fast = (point, fast) if given < target else (slow, point)
    return list(tried.values())


class Point(NamedTuple):
    """A measurement: the logarithm of the multiply-adds before over those after, and of the speed-up."""

    work: float
    speed: float


def _aim(slow: Point, fast: Point | None, wanted: float, most: float) -> float:
    """The work to save for a speed, on the line through two points; a first guess takes time for proportional to work.

    Between two measurements the aim keeps away from both, so that each step narrows what is between them.
    """
    if fast is None:
        slope = slow.speed / slow.work if slow.speed > 0 and slow.work > 0 else 1.0
        return min(max(wanted / slope, slow.work + 0.1 * (most - slow.work)), most)
    rise = fast.speed - slow.speed
    part = (wanted - slow.speed) / rise if rise > 0 else 0.5
    return slow.work + min(max(part, 0.1), 0.9) * (fast.work - slow.work)


class _Work:
    """The logarithm of the multiply-adds before over those after, as a function of the share that goes."""

    def __init__(self, plan: Plan, costs: Costs, besides: Selection) -> None:
        self.plan = plan
        self.costs = costs
        self.besides = besides
        self.whole = costs.size({}).macs
        if not self.whole:
            raise GraphOptError("the graph has no multiply-adds, so channels do not decide its speed")
        self.most = self.saved(1.0)

    def selection(self, share: float) -> Selection:
        """What goes."""
        return {**self.plan.select(share), **self.besides}

    def counts(self, share: float) -> tuple[int, ...]:
        """How many channels of each group go: shares with the same counts select the same."""
        return tuple(self.plan.counts(share).values())

    def saved(self, share: float) -> float:
        """The logarithm of what is saved."""
        return log(self.whole / max(self.costs.size(self.selection(share)).macs, 1))

    def share(self, saved: float) -> float:
        """The least share that saves so much."""
        return least_share(self.plan, lambda share: self.saved(share) >= saved - 1e-9)


def least_share(plan: Plan, enough: Callable[[float], bool]) -> float:
    """The least share for which a monotone test holds, by bisection; 1 if it holds for none below."""
    low, high = 0, plan.steps()
    while low < high:
        middle = (low + high) // 2
        if enough(middle / plan.steps()):
            high = middle
        else:
            low = middle + 1
    return low / max(plan.steps(), 1)
