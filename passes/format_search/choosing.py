"""The choice of formats as an integer program: the least error within budgets, and what can be had for which cost.

    min Σ error(l, f)·y(l, f)   with   Σ_f y(l, f) = 1   and   Σ cost(l, f)·y(l, f) ≤ budget   for each cost

Latency is more than a sum over layers: operators between layers and conversions take time, too. They are variables of
the same program (`quantization.speed`), tied to y by x(node) = Σ_{f ≠ float} y(l, f).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.errors import GraphOptError
from graphopt.passes.format_search.candidates import Candidate
from graphopt.passes.quantization.integer_program import IntegerProgram
from graphopt.passes.quantization.layer_formats import FLOAT
from graphopt.passes.quantization.placement import Placement
from graphopt.passes.quantization.profiles import Profile
from graphopt.passes.quantization.speed import Measured, SpeedProgram

LATENCY = "latency"
POINTS = 9
"""Budgets between the cheapest and the dearest choice that are tried for the list of what can be had."""


@dataclass(frozen=True)
class Choice:
    """Formats by the name of the weight. error: Σ of the sensitivities. costs: shares of the floating-point graph's.

    floats: results of operators without weights that the choice leaves in floating point, for speed.
    """

    formats: dict[str, str]
    error: float
    costs: dict[str, float]
    floats: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """How many weights have each format."""
        return {name: list(self.formats.values()).count(name) for name in dict.fromkeys(self.formats.values())}


class Timing:
    """What the latency of a choice is made of. nodes: of each candidate."""

    def __init__(self, plan: Placement, profile: Profile, measured: Measured, candidates: Sequence[Candidate]) -> None:
        self.plan = plan
        self.profile = profile
        self.measured = measured
        self.candidates = candidates

    @property
    def float_seconds(self) -> float:
        """The time with everything in floating point."""
        return sum(times.float_ for times in self.measured.nodes.values())


@dataclass(frozen=True)
class Problem:
    """What there is to choose from.

    names: of the weights. formats: allowed ones. errors: by weight and format. costs: for each kind of cost by weight
    and format, and of the rest; as shares of the floating-point graph's. timing: where latency counts.
    """

    names: Sequence[str]
    formats: Sequence[str]
    errors: Mapping[tuple[str, str], float]
    costs: Mapping[str, Mapping[tuple[str, str], float]]
    rest: Mapping[str, float]
    timing: Timing | None = None

    def kinds(self) -> list[str]:
        """The costs that can be bounded."""
        return [*self.costs, *([LATENCY] if self.timing is not None else [])]

    def choose(self, limits: Mapping[str, float], cheapest: str = "") -> Choice | None:
        """The choice with the least error within limits, or with the least cost of a kind; None if nothing fits."""
        built = _Built(self)
        for kind, limit in limits.items():
            built.limit(kind, limit)
        return built.solve(cheapest)

    def check(self, limits: Mapping[str, float]) -> None:
        """Refuse limits that cannot be met.

        Raises:
            GraphOptError: the message names the best that can.
        """
        if self.choose(limits) is not None:
            return
        for kind, limit in limits.items():
            best = self.choose({}, cheapest=kind)
            assert best is not None
            if best.costs[kind] > limit:
                least = math.ceil(best.costs[kind] * 1e4) / 1e4
                raise GraphOptError(
                    f"{kind}={limit:g} cannot be reached: the least is {kind}={least:g}, with every weight in the "
                    "format that costs the least; ask for that, or allow narrower formats"
                )
        raise GraphOptError(f"{' and '.join(f'{k}={v:g}' for k, v in limits.items())} cannot be met together")

    def pareto(self, kind: str, limits: Mapping[str, float]) -> list[Choice]:
        """Choices that nothing beats in both error and a cost, by rising cost, within limits."""
        cheapest, best = self.choose(limits, cheapest=kind), self.choose(limits)
        if cheapest is None or best is None:
            return []
        return self.between(kind, limits, cheapest.costs[kind], best.costs[kind])

    def between(self, kind: str, limits: Mapping[str, float], low: float, high: float) -> list[Choice]:
        """The same for costs from `low` to `high`, by equal factors."""
        found: list[Choice] = []
        for share in np.geomspace(low, high, POINTS).tolist() if low > 0 else np.linspace(low, high, POINTS).tolist():
            choice = self.choose({**limits, kind: share})
            if choice is not None and (not found or choice.error < found[-1].error):
                found.append(choice)
        return found


class _Built:
    """The program of a problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.program = IntegerProgram()
        self.picks = {(name, format_): self.program.variable() for name in problem.names for format_ in problem.formats}
        for name in problem.names:
            self.program.constrain({self.picks[name, f]: 1.0 for f in problem.formats}, 1.0, 1.0)
        self.speed = self._speed(problem.timing) if problem.timing is not None else None

    def _speed(self, timing: Timing) -> SpeedProgram:
        speed = SpeedProgram(self.program, timing.plan, timing.profile, timing.measured)
        for candidate in timing.candidates:
            integers = {self.picks[candidate.name, f]: -1.0 for f in self.problem.formats if f != FLOAT}
            for node in candidate.nodes:
                self.program.constrain({speed.integer[node]: 1.0, **integers}, 0.0, 0.0)
        return speed

    def limit(self, kind: str, limit: float) -> None:
        terms, constant = self._cost(kind)
        self.program.constrain(terms, high=limit - constant)

    def _cost(self, kind: str) -> tuple[dict[int, float], float]:
        """A cost as a share of the floating-point graph's: terms and a constant."""
        if kind != LATENCY:
            costs = self.problem.costs[kind]
            return {variable: costs[key] for key, variable in self.picks.items()}, self.problem.rest[kind]
        assert self.speed is not None and self.problem.timing is not None
        whole = self.problem.timing.float_seconds or 1.0
        return {v: seconds / whole for v, seconds in self.speed.terms.items()}, self.speed.constant / whole

    def solve(self, cheapest: str) -> Choice | None:
        errors = {variable: self.problem.errors.get(key, 0.0) for key, variable in self.picks.items()}
        for variable, cost in (self._cost(cheapest)[0] if cheapest else errors).items():
            self.program.costs[variable] = cost
        solution = self.program.solve()
        if solution is None:
            return None
        formats = {name: f for (name, f), variable in self.picks.items() if solution[variable]}
        costs = {}
        for kind in self.problem.kinds():
            terms, constant = self._cost(kind)
            costs[kind] = constant + math.fsum(factor * solution[variable] for variable, factor in terms.items())
        error = math.fsum(errors[self.picks[name, f]] for name, f in formats.items())
        return Choice(formats, error, costs, self._floats(solution))

    def _floats(self, solution: Sequence[int]) -> tuple[str, ...]:
        if self.speed is None or self.problem.timing is None:
            return ()
        others = self.problem.timing.plan.others
        return tuple(node.results[0].name for node in others if not solution[self.speed.integer[node]])
