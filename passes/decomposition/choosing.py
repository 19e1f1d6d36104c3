"""Which option each layer takes: alone by a bound of its error or cost, or all together within a budget.

    min Σ eₗ(c)·xₗ(c)   with   Σ_c xₗ(c) = 1   and   Σ costₗ(c)·xₗ(c) ≤ budget

over the options c of each layer l, to stay as it is among them; e is the relative squared error of the layer's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from graphopt.errors import GraphOptError
from graphopt.passes.decomposition.options import Curve, Option, cost, pareto, thinned
from graphopt.passes.decomposition.sites import Site
from graphopt.passes.quantization.integer_program import IntegerProgram

LOOKS = 24
"""Options of a layer in the program."""

Choice = dict[Site, Option]


def by_error(curves: Sequence[Curve], bound: float) -> tuple[Choice, dict[Site, str]]:
    """For each layer the cheapest option whose relative squared error is within a bound."""
    return _each(
        curves,
        lambda o: o.error <= bound * (1 + 1e-9),
        cost,
        lambda options: f"it would lose {math.sqrt(min(o.error for o in options)):.3g} of its output at least",
    )


def by_ratio(curves: Sequence[Curve], share: float) -> tuple[Choice, dict[Site, str]]:
    """For each layer the option with the least error that keeps a share of its multiply-adds (a table: of weights)."""

    def kept(curve: Curve, option: Option) -> float:
        work = curve.site.work
        return option.work.macs / work.macs if work.macs else option.work.parameters / work.parameters

    chosen: Choice = {}
    left: dict[Site, str] = {}
    for curve in curves:
        fitting = [o for o in curve.options if kept(curve, o) <= share * (1 + 1e-9)]
        if fitting:
            chosen[curve.site] = min(fitting, key=lambda o: (o.error, cost(o)))
        elif curve.options:
            least = min(kept(curve, o) for o in curve.options)
            left[curve.site] = f"it keeps {least:.3g} of its multiply-adds at least"
    return chosen, left


def _each(
    curves: Sequence[Curve],
    fits: Callable[[Option], bool],
    key: Callable[[Option], float],
    why: Callable[[Sequence[Option]], str],
) -> tuple[Choice, dict[Site, str]]:
    chosen: Choice = {}
    left: dict[Site, str] = {}
    for curve in curves:
        fitting = [option for option in curve.options if fits(option)]
        if fitting:
            chosen[curve.site] = min(fitting, key=key)
        elif curve.options:
            left[curve.site] = why(curve.options)
    return chosen, left


Price = Callable[[Site, "Option | None"], float]
"""What an option costs; None is the layer as it is."""


def within(curves: Sequence[Curve], budgets: Mapping[str, tuple[Price, float]]) -> Choice:
    """The options with the least error in all that keep to budgets. budgets: by name, costs and their bounds.

    Raises:
        GraphOptError: a budget cannot be met; the message names the least that can.
    """
    candidates: dict[Site, list[Option | None]] = {}
    for curve in curves:
        kept: dict[Option, None] = {}
        for price, _ in budgets.values():
            prices = {option: price(curve.site, option) for option in curve.options}
            kept.update(dict.fromkeys(thinned(pareto(curve.options, prices), LOOKS)))
        candidates[curve.site] = [None, *kept]
    for name, (price, bound) in budgets.items():
        least = sum(min(price(site, option) for option in options) for site, options in candidates.items())
        if least > bound * (1 + 1e-9):
            raise BudgetError(name, least)
    program = IntegerProgram()
    picks = {
        (site, option): program.variable(0.0 if option is None else option.error)
        for site, options in candidates.items()
        for option in options
    }
    for site, options in candidates.items():
        program.constrain({picks[site, option]: 1.0 for option in options}, 1.0, 1.0)
    for price, bound in budgets.values():
        program.constrain({variable: price(*key) for key, variable in picks.items()}, high=bound)
    solution = program.solve()
    if solution is None:
        raise GraphOptError(f"{' and '.join(budgets)} cannot be met together; allow more of one of them")
    return {site: option for (site, option), variable in picks.items() if option is not None and solution[variable]}


class BudgetError(GraphOptError):
    """A budget that cannot be met. budget: its name. least: what the layers cost at least."""

    def __init__(self, budget: str, least: float) -> None:
        super().__init__(f"{budget} cannot be met")
        self.budget = budget
        self.least = least
