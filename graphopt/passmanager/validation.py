"""Numeric validation: float64 is the referee.

The original graph G₀ runs once in float64 on each sample set: R = G₀(x) there. A pass that turns G into G' holds

    bitwise, value-exact   if G'(x) = G(x) in the working precision, bit by bit or by value, with contiguous operands
    reassociating          if |G'(x) − R| ≤ 4·|G₀(x) − R| + 8 ulp of the output's scale, at most, for each output
    lossy                  always; its error against R is recorded, and held to a budget if there is one

and, unless it is lossy, G'(y) = G(y) in float64 within 1e-9 of the scale, on a set y made from x at other sizes. There
rounding is about 1e-12, so a larger difference is a bug. Where the pass stored a new constant, that was rounded to the
working precision, the bound is that of the line above. Integers and bools must be equal, and NaN and infinities in the
same places. A difference at a point where the original itself jumps by rounding alone (see `stability`) is excused.

A pass costs one run on each set. An exact pass that follows another is compared with outputs that are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from graphopt.errors import GraphOptError, ValidationError
from graphopt.ir import Graph
from graphopt.passmanager.budget import Budget
from graphopt.passmanager.compare import (
    Distance,
    distance,
    exact_difference,
    form_difference,
    is_inexact,
    pairs,
    special_difference,
    ulp,
    wide,
)
from graphopt.passmanager.report import ErrorSummary
from graphopt.passmanager.runner import Baseline, Runner
from graphopt.passmanager.samples import variations
from graphopt.passmanager.stability import jumps, rounding
from graphopt.rewrite import Contract

OWN_ERRORS = 4.0
ULPS = 8.0
FLOAT64_LIMIT = 1e-9
UNREFEREED_ULPS = 64.0
"""The bound in ulp where the graph cannot run in float64, and so its own error is not known."""
EXCUSE = "excused, for the original itself moves as much there by rounding alone"


class Mismatch(GraphOptError):
    """A graph whose numbers broke a promise. `output` is the index of the returned value, or None."""

    def __init__(self, message: str, output: int | None = None) -> None:
        super().__init__(message)
        self.output = output


@dataclass
class Outputs:
    """What a graph gave: on the caller's sets in the working precision, on the second set in float64."""

    graph: Graph
    work: list[list[Any]]
    second: list[Any] | None
    error: ErrorSummary | None = None
    excuses: list[str] = field(default_factory=list)


class Validator:
    """Holds each new graph to the promise of the pass that made it.

    samples: sets of flat inputs. Nothing runs before the first check.
    made_up: the samples are not the caller's; if the graph refuses them, nothing is validated (see `ready`).
    """

    def __init__(
        self,
        graph: Graph,
        samples: Sequence[Sequence[Any]],
        *,
        budget: Budget | None = None,
        made_up: bool = False,
    ) -> None:
        self.original = graph
        self.sets: list[Sequence[Any]] = list(samples)
        self.budget = budget
        self.made_up = made_up
        self.runner = Runner(graph)
        self.notes: list[str] = []
        self.refused = False
        self.skip: frozenset[int] = frozenset()
        self.second: list[Any] | None = None
        self.sizes: dict[str, int] = {}
        self._origin: Baseline | None = None
        self._base: Baseline | None = None
        self._current: Outputs | None = None

    @property
    def runs(self) -> int:
        """How often a model has run."""
        return self.runner.runs

    @property
    def num_sets(self) -> int:
        """How many sample sets there are, the second size included."""
        return len(self.sets) + (self.second is not None)

    @property
    def current_error(self) -> ErrorSummary | None:
        """The error of the last accepted graph against the original."""
        return self._current.error if self._current is not None else None

    def check(self, after: Graph, promise: Contract, *, rounded: bool) -> Outputs:
        """Hold a graph to a promise against the last accepted one. Pass the result to `accept` to keep it.

        rounded: the pass stored new floating-point constants.

        Raises:
            Mismatch: the promise is broken; says how.
            ValidationError: the original graph does not run on the samples.
        """
        self._prepare()
        assert self._current is not None
        outputs = Outputs(after, [self._attempt(self.runner.work, after, s) for s in self.sets], None)
        if promise <= Contract.VALUE_EXACT:
            self._check_exact(outputs, bitwise=promise is Contract.BITWISE)
            outputs.error = self._current.error or ErrorSummary()
        else:
            self._check_close(outputs, lossy=promise is Contract.LOSSY)
        if self.second is not None:
            outputs.second = self._attempt(self.runner.wide, after, self.second)
            if promise is not Contract.LOSSY:
                self._check_second(outputs, rounded)
        if promise is Contract.LOSSY and self.budget is not None and outputs.error is not None:
            self.budget.check(outputs.error)
        return outputs

    def accept(self, outputs: Outputs, *, lossy: bool) -> None:
        """Make a checked graph the one that the next is held against."""
        self._current = outputs
        if lossy:
            self._base = Baseline(outputs.graph, outputs.work)

    # The original

    def ready(self) -> bool:
        """Run the original graph, unless that is done; False if it refuses inputs that were made up.

        Raises:
            ValidationError: it refuses the caller's.
        """
        try:
            self._prepare()
        except ValidationError as error:
            if not self.made_up:
                raise
            self.notes.append(f"numbers were not validated, for inputs could not be made up: {error}; give samples")
            self.sets, self.refused = [], True
        return not self.refused

    def _prepare(self) -> None:
        if self._origin is not None or self.refused:
            return
        try:
            work = [self.runner.work(self.original, s) for s in self.sets]
        except GraphOptError as error:
            raise ValidationError(f"the original graph does not run on the sample inputs: {error}") from error
        self._origin = self._base = Baseline(self.original, work)
        self._find_random()
        self._choose_second()
        self._current = Outputs(self.original, work, self._second_outputs)

    def _find_random(self) -> None:
        """Outputs that depend on the random generator's state cannot be validated."""
        if not self.runner.random or not self.sets:
            return
        assert self._origin is not None
        self.runner.seed += 1
        again = self.runner.work(self.original, self.sets[0])
        self.runner.seed -= 1
        found = [i for i, a, b in pairs(self._origin.work[0], again) if exact_difference(a, b, bitwise=True)]
        if found:
            self.skip = frozenset(found)
            self.notes.append(f"outputs {found} depend on random numbers and are not validated")
        else:
            self.runner.random = False

    def _choose_second(self) -> None:
        """Take the first variation of the samples that the original graph runs on, in float64."""
        self._second_outputs: list[Any] | None = None
        if not self.sets:
            return
        refused: list[str] = []
        candidates = [(m, s) for m, s in variations(self.original, self.sets[0])] or [(list(self.sets[0]), {})]
        for made, sizes in candidates:
            try:
                self._second_outputs = self.runner.wide(self.original, made)
            except GraphOptError as error:
                refused.append(str(error))
                continue
            self.second, self.sizes = made, sizes
            break
        if refused:
            tried = "no second sample set works" if self.second is None else "some sizes were not possible"
            self.notes.append(f"{tried}: {refused[0]}")

    def _reference(self, base: Baseline, index: int) -> list[Any] | None:
        """The outputs of a baseline in float64, or None if it cannot run so."""
        while len(base.reference) <= index:
            try:
                base.reference.append(self.runner.wide(base.graph, self.sets[len(base.reference)]))
            except GraphOptError as error:
                base.reference.append(None)
                bound = f"the bound is {UNREFEREED_ULPS:g} ulp"
                self.notes.append(f"the graph does not run in float64, so {bound}: {error}")
        return base.reference[index]

    # Checks

    def _attempt(self, run: Callable[..., list[Any]], graph: Graph, inputs: Sequence[Any]) -> list[Any]:
        try:
            return run(graph, inputs)
        except GraphOptError as error:
            raise Mismatch(f"the graph does not run any more: {error}") from error

    def _check_exact(self, outputs: Outputs, *, bitwise: bool) -> None:
        assert self._current is not None
        for before, after in zip(self._current.work, outputs.work):
            for index, old, new in pairs(before, after, self.skip):
                found = exact_difference(old, new, bitwise=bitwise)
                if found is not None:
                    raise Mismatch(f"output {index}: {found}", index)

    def _check_close(self, outputs: Outputs, *, lossy: bool) -> None:
        assert self._base is not None and self._origin is not None
        summary: ErrorSummary | None = None
        for number in range(len(self.sets)):
            self._reference(self._base, number)
            if not lossy:
                self._check_set(outputs, number)
            reference = self._reference(self._origin, number) or self._origin.work[number]
            found = self._summarize(outputs.work[number], reference, self._origin.work[number])
            summary = found if summary is None else worse(summary, found)
        outputs.error = summary

    def _check_set(self, outputs: Outputs, number: int) -> None:
        assert self._base is not None and self._current is not None
        base_work, reference = self._base.work[number], self._base.reference[number]
        own = self._base.own(number)
        accepted = self._current.work[number]
        for index, old, new in pairs(base_work, outputs.work[number], self.skip):
            if exact_difference(accepted[index], new, bitwise=True) is None:
                continue  # it was judged already
            referee = reference[index] if reference is not None else old
            found = self._difference(old, new, referee, own[index])
            if found is None:
                continue
            message, gap = found
            if gap is None or not self._is_rounding(self.sets[number], index, gap):
                raise Mismatch(f"output {index}: {message}", index)
            outputs.excuses.append(f"output {index}: {message}; {EXCUSE}")

    def _is_rounding(self, inputs: Sequence[Any], index: int, gap: torch.Tensor) -> bool:
        """True if the original itself moves as much by rounding alone."""
        assert self._base is not None
        graph, runner = self._base.graph, self.runner
        if gap.numel() and gap.max().item() <= OWN_ERRORS * rounding(runner, graph, inputs, index):
            return True
        return jumps(runner, graph, inputs, index, gap)

    def _difference(
        self, old: Any, new: Any, referee: Any, own: Distance | None
    ) -> tuple[str, torch.Tensor | None] | None:
        """How a reassociated output breaks its bound, and by how much at each element (None: nothing excuses it)."""
        found = form_difference(old, new)
        if found is not None:
            return found, None
        if not is_inexact(old):
            message = exact_difference(old, new, bitwise=False)
            if message is None:
                return None
            gap = (new.double() - old.double()).abs().reshape(-1).cpu() if isinstance(new, torch.Tensor) else None
            return message, gap
        message = special_difference(new, old, referee)
        if message is not None:
            return message, None
        measured = distance(new, referee)
        unit = ulp(old)
        limit = OWN_ERRORS * own.max_abs + ULPS * unit * own.scale if own else UNREFEREED_ULPS * unit * measured.scale
        if measured.max_abs <= limit:
            return None
        message = (
            f"error {measured.max_abs:.3g} against the original in float64, allowed {limit:.3g} "
            f"(the original's own is {own.max_abs if own else 0:.3g}, the scale {measured.scale:.3g})"
        )
        gap = (wide(new) - wide(referee)).abs_().nan_to_num_(nan=0.0, posinf=0.0)
        return message, (gap - limit).clamp_(min=0)

    def _check_second(self, outputs: Outputs, rounded: bool) -> None:
        """Compare in float64 with the graph before."""
        assert self._current is not None and self._base is not None
        before, after = self._current.second, outputs.second
        if before is None or after is None or self.second is None:
            return
        worst = 0.0
        for index, old, new in pairs(before, after, self.skip):
            found = form_difference(old, new)
            if found is not None:
                raise Mismatch(f"output {index}{self._sizes_text()}: {found}", index)
            message, gap, relative = self._second_difference(old, new, index, rounded)
            if message is not None:
                unit = torch.finfo(torch.float32 if rounded else torch.float64).eps
                graph, inputs = self._base.graph, self.second
                if gap is None or not jumps(self.runner, graph, inputs, index, gap, unit=unit):
                    raise Mismatch(f"output {index}{self._sizes_text()}: {message}", index)
                outputs.excuses.append(f"output {index}{self._sizes_text()}: {message}; {EXCUSE}")
            worst = max(worst, relative)
        if outputs.error is not None:
            outputs.error = replace(outputs.error, float64=worst)

    def _second_difference(
        self, old: Any, new: Any, index: int, rounded: bool
    ) -> tuple[str | None, torch.Tensor | None, float]:
        if not is_inexact(old):
            message = exact_difference(old, new, bitwise=False)
            gap = None
            if message is not None and isinstance(new, torch.Tensor):
                gap = (new.double() - old.double()).abs().reshape(-1).cpu()
            return message, gap, 0.0
        message = special_difference(new, old, old)
        if message is not None:
            return message, None, 0.0
        measured = distance(new, old)
        limit = FLOAT64_LIMIT * measured.scale
        if measured.max_abs > limit and rounded:
            limit = self._rounding_limit(index) * measured.scale
        if measured.max_abs <= limit:
            return None, None, measured.relative
        message = (
            f"in float64 the results differ by {measured.max_abs:.3g} at a scale of {measured.scale:.3g}, "
            f"allowed {limit:.3g}"
        )
        return message, ((wide(new) - wide(old)).abs_() - limit).clamp_(min=0), measured.relative

    def _rounding_limit(self, index: int) -> float:
        """The relative bound where constants were rounded to the working precision."""
        assert self._base is not None
        found = 0.0
        for number in range(len(self.sets)):
            self._reference(self._base, number)
            own = self._base.own(number)[index]
            unit = ulp(self._base.work[number][index])
            relative = OWN_ERRORS * own.relative + ULPS * unit if own is not None else UNREFEREED_ULPS * unit
            found = max(found, relative)
        return found

    def _sizes_text(self) -> str:
        return f" at sizes {', '.join(f'{k}={v}' for k, v in self.sizes.items())}" if self.sizes else ""

    def _summarize(self, outputs: Sequence[Any], reference: Sequence[Any], original: Sequence[Any]) -> ErrorSummary:
        """The error of a set of outputs against the original graph."""
        summary = ErrorSummary()
        for index, new, want in pairs(outputs, reference, self.skip):
            old = original[index]
            found = form_difference(old, new)
            if found is not None:
                raise Mismatch(f"output {index}: {found}", index)
            if is_inexact(new):
                message = special_difference(new, old, want)
                if message is not None:
                    raise Mismatch(f"output {index}: {message}", index)
                d = distance(new, want)
                summary = worse(summary, ErrorSummary(d.max_abs, d.relative, d.relative_rms, index))
            else:
                count, total = _mismatches(new, old)
                summary = worse(summary, ErrorSummary(output=index, mismatches=count, elements=total))
        return summary


def _mismatches(new: Any, old: Any) -> tuple[int, int]:
    if isinstance(new, torch.Tensor):
        return int(new.ne(old).sum()), new.numel()
    return int(new != old), 1


def worse(a: ErrorSummary, b: ErrorSummary) -> ErrorSummary:
    """The worse of two errors; mismatches add up."""
    top = b if (b.max_rel, b.max_abs) > (a.max_rel, a.max_abs) else a
    return ErrorSummary(
        max(a.max_abs, b.max_abs),
        max(a.max_rel, b.max_rel),
        max(a.relative_rms, b.relative_rms),
        top.output,
        a.float64,
        a.mismatches + b.mismatches,
        a.elements + b.elements,
    )
