"""Numeric validation: float64 is the referee.

The original graph G₀ runs once in float64 on each sample set: R = G₀(x) there. A pass that turns G into G' holds

    bitwise, value-exact   if G'(x) = G(x) in the working precision, bit by bit or by value, with contiguous operands
    reassociating          if |G'(x) − R| ≤ 4·|G₀(x) − R| + 8 ulp of the output's scale, at most, for each output
    lossy                  always; its error against R is recorded, and held to a budget if there is one

and, unless it is lossy, G'(y) = G(y) in float64 within 1e-9 of the scale, on a set y made from x at other sizes. There
rounding is about 1e-12, so a larger difference is a bug. Where the pass stored a new constant, that was rounded to the
working precision, the bound is that of the line above. Integers and bools must be equal, and NaN and infinities in the
same places. A difference at a point where the original itself jumps by rounding alone (see `stability`) is excused.

Inside, each value that a rule put in place of another is held to that, too (see `regions`).

A pass costs one run on each set. An exact pass that follows another is compared with outputs that are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphopt.errors import GraphOptError, ValidationError
from graphopt.ir import Graph
from graphopt.passmanager.bounds import (
    FLOAT64_LIMIT,
    OWN_ERRORS,
    ULPS,
    Complaint,
    float64_complaint,
    relative_bound,
    surely_close,
    working_complaint,
)
from graphopt.passmanager.budget import Budget
from graphopt.passmanager.compare import distance, exact_difference, is_inexact, pairs, ulp
from graphopt.passmanager.original import Original
from graphopt.passmanager.provenance import Alignment
from graphopt.passmanager.regions import Region, RegionCheck
from graphopt.passmanager.report import ErrorSummary
from graphopt.passmanager.runner import Baseline, Runner
from graphopt.passmanager.sketches import Sketches
from graphopt.passmanager.stability import jumps, rounding
from graphopt.passmanager.summary import resized_states, summarize, worse
from graphopt.rewrite import Contract

EXCUSE = "excused, for the original itself moves as much there by rounding alone"


class Mismatch(GraphOptError):
    """A graph whose numbers broke a promise.

    output: the index of the returned value that is wrong, or None. region: the first value inside that is, or None.
    """

    def __init__(self, message: str, output: int | None = None, region: Region | None = None) -> None:
        super().__init__(message)
        self.output = output
        self.region = region


@dataclass
class Outputs:
    """What a graph gave: on the caller's sets in the working precision, on the second set in float64; and sketches of
    its values there.

    inexcusable: a region of it is known to be wrong, so a difference is not looked at for chance (which takes runs).
    """

    graph: Graph
    work: list[list[Any]]
    second: list[Any] | None
    sketches: Sketches | None = None
    error: ErrorSummary | None = None
    excuses: list[str] = field(default_factory=list)
    inexcusable: bool = False


class Validator:
    """Holds each new graph to the promise of the pass that made it.

    samples: sets of flat inputs. Nothing runs before the first check.
    made_up: the samples are not the caller's; if the graph refuses them, nothing is validated (see `ready`).
    regions: keep what the check of rewritten regions needs.
    """

    def __init__(
        self,
        graph: Graph,
        samples: Sequence[Sequence[Any]],
        *,
        budget: Budget | None = None,
        made_up: bool = False,
        regions: bool = False,
    ) -> None:
        self.graph = graph
        self.regions = regions
        self.sets: list[Sequence[Any]] = list(samples)
        self.budget = budget
        self.made_up = made_up
        self.refused = False
        self.runner = Runner(graph)
        self._notes: list[str] = []
        self._original: Original | None = None
        self._base: Baseline | None = None
        self._current: Outputs | None = None

    @property
    def runs(self) -> int:
        """How often a model has run."""
        return self.runner.runs

    @property
    def num_sets(self) -> int:
        """How many sample sets there are, the second size included."""
        return len(self.sets) + (self._original is not None and self._original.second is not None)

    @property
    def notes(self) -> list[str]:
        """What a person should know of the validation."""
        return [*self._notes, *(self._original.notes if self._original is not None else ())]

    @property
    def current_error(self) -> ErrorSummary | None:
        """The error of the last accepted graph against the original."""
        return self._current.error if self._current is not None else None

    def ready(self) -> bool:
        """Run the original graph, unless that is done; False if it refuses inputs that were made up.

        Raises:
            ValidationError: it refuses the caller's.
        """
        if self.refused:
            return False
        try:
            _ = self.original
        except ValidationError as error:
            if not self.made_up:
                raise
            self._notes.append(f"numbers were not validated, for inputs could not be made up: {error}; give samples")
            self.sets, self.refused = [], True
        return not self.refused

    def check(self, after: Graph, promise: Contract, *, rounded: bool, step: Alignment | None = None) -> Outputs:
        """Hold a graph to a promise against the last accepted one. Pass the result to `accept` to keep it.

        rounded: the pass stored new floating-point constants.
        step: tells which values claim to be equal to which; without it, only the outputs are compared.

        Raises:
            Mismatch: the promise is broken; says how.
            ValidationError: the original graph does not run on the samples.
        """
        regions = self._regions(step, rounded) if step is not None and promise is not Contract.LOSSY else None
        outputs = self._run(after, regions.after if regions is not None else Sketches())
        region = regions.first() if regions is not None else None
        outputs.excuses += [f"{excuse}; {EXCUSE}" for excuse in regions.excuses] if regions is not None else []
        outputs.inexcusable = region is not None
        try:
            self._check_outputs(outputs, promise, rounded)
        except Mismatch as error:
            if region is None:
                raise
            raise Mismatch(f"{region}\n  at the end, {error}", error.output, region) from error
        if region is not None:
            raise Mismatch(f"{region}\n  later layers hide that from the outputs on these samples", region=region)
        return outputs

    def accept(self, outputs: Outputs, *, lossy: bool) -> None:
        """Make a checked graph the one that the next is held against."""
        self._current = outputs
        if lossy:
            self._base = Baseline(outputs.graph, outputs.work)

    @property
    def original(self) -> Original:
        """The original graph's outputs; it runs at the first question."""
        if self._original is None:
            self._original = Original(self.graph, self.sets, self.runner, sketched=self.regions)
        return self._original

    @property
    def base(self) -> Baseline:
        """What reassociating passes are held against: the original, or what the last lossy pass left."""
        return self._base or self.original.baseline

    @property
    def current(self) -> Outputs:
        """The outputs of the last accepted graph."""
        if self._current is None:
            original = self.original
            baseline, second = original.baseline, original.second_outputs
            self._current = Outputs(self.graph, baseline.work, second, original.sketches)
        return self._current

    def _run(self, graph: Graph, sketches: Sketches) -> Outputs:
        original = self.original
        outputs = Outputs(graph, [self._attempt(self.runner.work, graph, s) for s in self.sets], None)
        if original.second is not None:
            outputs.sketches = sketches if original.sketches is not None else None
            outputs.second = self._attempt(self.runner.wide, graph, original.second, outputs.sketches)
        return outputs

    def _check_outputs(self, outputs: Outputs, promise: Contract, rounded: bool) -> None:
        if promise <= Contract.VALUE_EXACT:
            self._check_exact(outputs, bitwise=promise is Contract.BITWISE)
            outputs.error = self.current.error or ErrorSummary()
        else:
            self._check_close(outputs, lossy=promise is Contract.LOSSY)
        if self.original.second is not None and promise is not Contract.LOSSY:
            self._check_second(outputs, self.original.second, rounded)
        if promise is Contract.LOSSY and self.budget is not None and outputs.error is not None:
            self.budget.check(outputs.error)

    def _regions(self, step: Alignment, rounded: bool) -> RegionCheck | None:
        before, inputs = self.current.sketches, self.original.second
        if before is None or inputs is None:
            return None
        return RegionCheck(self.runner, step, inputs, before, rounded=rounded)

    def _attempt(self, run: Callable[..., list[Any]], graph: Graph, *given: Any) -> list[Any]:
        try:
            return run(graph, *given)
        except GraphOptError as error:
            raise Mismatch(f"the graph does not run any more: {error}") from error

    def _check_exact(self, outputs: Outputs, *, bitwise: bool) -> None:
        for before, after in zip(self.current.work, outputs.work):
            for index, old, new in pairs(before, after, self.original.skip):
                found = exact_difference(old, new, bitwise=bitwise)
                if found is not None:
                    raise Mismatch(f"output {index}: {found}", index)

    def _check_close(self, outputs: Outputs, *, lossy: bool) -> None:
        original, total = self.original, ErrorSummary()
        skip = original.skip | resized_states(self.graph, outputs.graph)
        for number, work in enumerate(outputs.work):
            if not lossy:
                self._check_set(outputs, number)
            old = original.baseline.work[number]
            reference = original.reference(original.baseline, number, if_known=not lossy) or old
            summary, index, complaint = summarize(work, reference, old, skip)
            if complaint is not None:
                raise Mismatch(f"output {index}: {complaint.message}", index)
            total = worse(total, summary)
        outputs.error = total

    def _check_set(self, outputs: Outputs, number: int) -> None:
        """Compare with the base's outputs in float64."""
        base, accepted = self.base, self.current.work[number]
        for index, old, new in pairs(base.work[number], outputs.work[number], self.original.skip):
            if exact_difference(accepted[index], new, bitwise=True) is None:
                continue  # it was judged already
            if surely_close(old, new):
                continue  # whatever the referee says, who costs a run
            reference = self.original.reference(base, number)
            own = base.own(number)
            complaint = working_complaint(old, new, reference[index] if reference is not None else old, own[index])
            if complaint is not None:
                excused = not outputs.inexcusable and self._is_rounding(self.sets[number], index, complaint.gap)
                self._settle(outputs, f"output {index}", index, complaint, excused)

    def _is_rounding(self, inputs: Sequence[Any], index: int, gap: torch.Tensor | None) -> bool:
        """True if the base itself moves as much by rounding alone."""
        if gap is None:
            return False
        graph, runner = self.base.graph, self.runner
        most = gap.max().item() if gap.numel() else 0.0
        if most <= OWN_ERRORS * rounding(runner, graph, inputs, index, enough=most / OWN_ERRORS):
            return True
        return jumps(runner, graph, inputs, index, gap)

    def _check_second(self, outputs: Outputs, inputs: Sequence[Any], rounded: bool) -> None:
        """Compare in float64 with the graph before, at other sizes."""
        before, after = self.current.second, outputs.second
        assert before is not None and after is not None
        unit = torch.finfo(torch.float32 if rounded else torch.float64).eps
        worst = 0.0
        for index, old, new in pairs(before, after, self.original.skip):
            complaint = float64_complaint(old, new, FLOAT64_LIMIT)
            if complaint is not None and rounded and is_inexact(old):
                # The least that the limit may be; the limit itself may cost a run.
                complaint = float64_complaint(old, new, ULPS * ulp(self.base.work[0][index]))
                if complaint is not None:
                    complaint = float64_complaint(old, new, *self._rounding_limit(index))
            if complaint is not None:
                gap, graph = complaint.gap, self.base.graph
                excused = (
                    gap is not None
                    and not outputs.inexcusable
                    and jumps(self.runner, graph, inputs, index, gap, unit=unit)
                )
                self._settle(outputs, f"output {index}{self._sizes_text()}", index, complaint, excused)
            if is_inexact(old):
                worst = max(worst, distance(new, old).relative)
        if outputs.error is not None:
            outputs.error = replace(outputs.error, float64=worst)

    def _settle(self, outputs: Outputs, where: str, index: int, complaint: Complaint, excused: bool) -> None:
        if not excused:
            raise Mismatch(f"{where}: {complaint.message}", index)
        outputs.excuses.append(f"{where}: {complaint.message}; {EXCUSE}")

    def _rounding_limit(self, index: int) -> tuple[float, float]:
        """The relative bound where constants were rounded to the working precision, and its floor."""
        relative, floor = 0.0, 0.0
        for number, work in enumerate(self.base.work):
            self.original.reference(self.base, number)
            bound = relative_bound(work[index], self.base.own(number)[index])
            relative, floor = max(relative, bound[0]), max(floor, bound[1])
        return relative, floor

    def _sizes_text(self) -> str:
        sizes = self.original.sizes
        return f" at sizes {', '.join(f'{k}={v}' for k, v in sizes.items())}" if sizes else ""
