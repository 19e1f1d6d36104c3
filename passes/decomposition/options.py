"""What a layer can become: methods, ranks, and what they cost and lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from graphopt.errors import GraphOptError
from graphopt.passes.decomposition.methods import METHODS, Method
from graphopt.passes.decomposition.methods.base import Ranks
from graphopt.passes.decomposition.problem import Problem
from graphopt.passes.decomposition.sites import Site, Work

_T = TypeVar("_T")

LOOKS = 8
"""Ranks of a method and layer that are looked at where each look makes a chain."""

WHOLE = 4
"""A layer whose full rank is below so many multiples may have any rank."""


@dataclass(frozen=True)
class Option:
    """A method and ranks for a layer. error: relative squared. seconds: measured, if it was."""

    method: str
    ranks: Ranks
    error: float
    work: Work
    seconds: float | None = None


@dataclass
class Curve:
    """What a layer can become, and why methods cannot.

    options: that cost less than the layer, by rising cost. seconds: the layer's own, if they were measured. failures:
    of methods that should have worked.
    """

    site: Site
    options: list[Option]
    reasons: list[str]
    seconds: float | None = None
    failures: list[str] = field(default_factory=list)

    @property
    def why_not(self) -> str:
        """Why there is no option."""
        return "; ".join(dict.fromkeys(self.reasons)) or "no rank costs less than the layer"


def applicable(site: Site, method: str) -> tuple[list[Method], list[str]]:
    """The methods to consider for a layer, and why others are not. method: a name, or "auto"."""
    wanted = list(METHODS.values()) if method == "auto" else [METHODS[method]]
    reasons = [one.why_not(site.shape) for one in wanted]
    return [m for m, why in zip(wanted, reasons) if why is None], [why for why in reasons if why is not None]


def curve(
    site: Site, problems: Sequence[Problem], methods: Sequence[Method], reasons: Sequence[str], multiple: int
) -> Curve:
    """All that is worth a look, with errors."""
    found: list[Option] = []
    failures = []
    for method in methods:
        try:
            found += _looked_at(site, problems, method, multiple)
        except GraphOptError as error:
            failures.append(f"{method.name} failed: {error}")
    if failures and not found:
        failures[-1] += "; the SVD takes its place"
        found = _looked_at(site, problems, METHODS["svd"], multiple)
    ordered = sorted(found, key=lambda o: (cost(o), o.error))
    return Curve(site, ordered, list(reasons), failures=failures)


def _looked_at(site: Site, problems: Sequence[Problem], method: Method, multiple: int) -> list[Option]:
    allowed = [steps(full, multiple) for full in method.full(site.shape)]
    ranks = [r for r in method.grid(problems, site.shape, allowed) if pays(site, method, r)]
    if not method.is_cheap(problems[0].second is not None):
        ranks = thinned(ranks, LOOKS)
    errors = method.errors(problems, site.shape, ranks) if ranks else {}
    return [Option(method.name, r, error, work(site, method, r)) for r, error in errors.items()]


def given(
    site: Site, problems: Sequence[Problem], methods: Sequence[Method], ranks: Ranks, name: str
) -> tuple[list[Option], str]:
    """The option of given ranks for the first method, and why there is none. name: of what gave them."""
    (method, *_) = methods
    full = method.full(site.shape)
    wanted = ranks * len(full) if len(ranks) == 1 else ranks
    if len(wanted) != len(full):
        raise GraphOptError(f"{name}: {method.name} of {site.name} has {len(full)} ranks, got {list(ranks)}")
    wanted = tuple(map(min, wanted, full)) if len(ranks) == 1 and len(full) > 1 else wanted
    if any(r > n for r, n in zip(wanted, full)):
        return [], f"rank {max(wanted)} is above its full rank, {max(full)}"
    if not pays(site, method, wanted):
        return [], f"at rank {', '.join(map(str, wanted))} its factors cost no less than the layer"
    error = method.errors(problems, site.shape, [wanted])[wanted]
    return [Option(method.name, wanted, error, work(site, method, wanted))], ""


def evbmf_option(site: Site, problems: Sequence[Problem], method: Method, multiple: int) -> tuple[list[Option], str]:
    """The option of the ranks that variational Bayes finds, at least one multiple; of groups the greatest."""
    found = [method.evbmf(problem, site.shape) for problem in problems]
    full = method.full(site.shape)
    raised = [
        next((step for step in steps(n, multiple) if step >= max(rank, 1)), n)
        for rank, n in zip(map(max, zip(*found)), full)
    ]
    ranks = tuple(raised)
    if not pays(site, method, ranks):
        return (
            [],
            f"variational Bayes finds rank {', '.join(map(str, ranks))} in it, which costs no less than the layer",
        )
    error = method.errors(problems, site.shape, [ranks])[ranks]
    return [Option(method.name, ranks, error, work(site, method, ranks))], ""


def steps(full: int, multiple: int) -> list[int]:
    """The ranks that are allowed: multiples, or all of a small layer; below the full rank or equal to it."""
    by = multiple if full >= WHOLE * multiple else 1
    return list(range(by, full + 1, by))


def work(site: Site, method: Method, ranks: Ranks) -> Work:
    """What an option costs."""
    return site.work_of(method.layout(site.shape, ranks))


def pays(site: Site, method: Method, ranks: Ranks) -> bool:
    """Whether factors have fewer weights than the layer, and no more multiply-adds; a table's lookup has none."""
    found = work(site, method, ranks)
    if site.shape.kind == "embedding":
        return found.parameters < site.work.parameters
    return found.parameters < site.work.parameters and found.macs < site.work.macs


def cost(option: Option) -> float:
    """What options are ordered by."""
    return option.work.macs + option.work.parameters


def pareto(options: Sequence[Option], costs: Mapping[Option, float] | None = None) -> list[Option]:
    """Those that none beats in both cost and error, by rising cost."""
    found: list[Option] = []
    price = (lambda o: costs[o]) if costs is not None else cost
    for option in sorted(options, key=lambda o: (price(o), o.error)):
        if not found or option.error < found[-1].error:
            found.append(option)
    return found


def thinned(items: Sequence[_T], count: int) -> list[_T]:
    """So many of a sequence at most, evenly, both ends included."""
    if len(items) <= count:
        return list(items)
    picked = np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))
    return [items[i] for i in picked]


def timed(option: Option, seconds: float) -> Option:
    """The option with its measured time."""
    return replace(option, seconds=seconds)
