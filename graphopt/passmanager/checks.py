"""What must hold of a pass: the caller's tensors are as they were, it told the truth, the graph is sound, the numbers
keep the promise, and it pays where it should."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from graphopt.errors import GraphOptError, PassError, ValidationError, VerificationError
from graphopt.ir import Graph, difference, verify
from graphopt.passmanager.base import Pass, PassResult
from graphopt.passmanager.budget import OverBudget
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.diagnosis import Failure
from graphopt.passmanager.guard import (
    TensorGuard,
    Touched,
    interface_difference,
    new_inexact_constants,
    verify_touched,
)
from graphopt.passmanager.profit import no_profit
from graphopt.passmanager.provenance import Alignment
from graphopt.passmanager.report import PassRecord
from graphopt.passmanager.reruns import Rerun
from graphopt.passmanager.settings import Settings
from graphopt.passmanager.validation import Mismatch, Outputs, Validator
from graphopt.rewrite import Contract


class LateFailure(GraphOptError):
    """A check at the end of the pipeline failed, and the pass to blame is not known."""


class Checks:
    """The checks of a run. Each raises `Failure` with a message that names the pass and, where it can, rule and node.

    samples: sets of flat inputs, or None to leave the numbers alone. made_up: they are not the caller's.
    """

    def __init__(
        self,
        graph: Graph,
        context: PassContext,
        settings: Settings,
        samples: Sequence[Sequence[Any]] | None,
        *,
        made_up: bool = False,
    ) -> None:
        self.original = graph
        self.context = context
        self.settings = settings
        regions = settings.validate == "each"
        self.validator = (
            None
            if samples is None
            else Validator(graph, samples, budget=settings.budget, made_up=made_up, regions=regions)
        )
        self.guard = TensorGuard(graph, samples or context.samples, backup=samples is not None)

    def judge(self, pass_: Pass, before: Graph, rerun: Rerun, promise: Contract | None) -> Failure | None:
        """Check what a pass did when it was run again. promise: what the run that failed was held to, if it got so far.

        A pass that was halted is taken at the word of the listeners.
        """
        result = rerun.result or PassResult(rerun.touched.any)
        record = PassRecord(pass_.name, "")
        try:
            self.tensors(pass_)
            changed = self.truth(pass_, before, rerun.graph, result, rerun.touched)
            if result.changed:
                self.graph(pass_, before, rerun.graph, rerun.touched, record)
            if changed and promise is not None:
                step = Alignment(before, rerun.graph, rerun.tracker, pass_)
                self.numbers(pass_, step, promise, record)
        except Failure as failure:
            return failure
        return None

    def tensors(self, pass_: Pass) -> None:
        """No tensor of the caller was written to."""
        written = self.guard.written() or (self.guard.damaged() if self.settings.full else None)
        if written is not None:
            message = f"pass {pass_.name!r} {written}"
            raise Failure(message, PassError, check="tensors", final=not self.guard.recoverable)

    def truth(self, pass_: Pass, before: Graph, draft: Graph, result: PassResult, touched: Touched) -> bool:
        """The pass says rightly whether it changed the graph. Returns whether it did."""
        says_nothing = f"pass {pass_.name!r} says that it changed nothing, but"
        if not result.changed and touched.any:
            raise Failure(f"{says_nothing} it changed {touched.described()}", PassError, check="truth")
        if not self.settings.full:
            return result.changed
        found = difference(before, draft)
        if found is not None and not result.changed:
            raise Failure(f"{says_nothing} {found}", PassError, check="truth")
        return found is not None

    def graph(self, pass_: Pass, before: Graph, draft: Graph, touched: Touched, record: PassRecord) -> None:
        """The graph is sound, and is called as it was before."""
        start = perf_counter()
        try:
            verify(draft) if self.settings.full else verify_touched(draft, touched)
            found = interface_difference(before, draft)
            if found is not None:
                raise VerificationError(found)
        except Exception as error:  # a graph may be broken in ways that the verifier itself trips over
            message = f"pass {pass_.name!r} returned a broken graph: {error}"
            raise Failure(message, PassError, check="graph") from error
        finally:
            record.verify_seconds = perf_counter() - start

    def numbers(self, pass_: Pass, step: Alignment, promise: Contract, record: PassRecord) -> Outputs | None:
        """The numbers keep the promise. Returns the outputs, for `accept`; None if they are not checked here."""
        if self.settings.validate == "end":
            return None
        if self.validator is None or not self.validator.ready():
            if promise is Contract.LOSSY and self.settings.budget is not None:
                message = f"pass {pass_.name!r} cannot be held to a budget without sample inputs"
                raise Failure(message, ValidationError, check="samples")
            return None
        start, runs = perf_counter(), self.validator.runs
        try:
            rounded = new_inexact_constants(step.before, step.after)
            outputs = self.validator.check(step.after, promise, rounded=rounded, step=step)
        except OverBudget as error:
            raise Failure(f"pass {pass_.name!r}: {error}", ValidationError, check="budget") from error
        except Mismatch as error:
            damage = self.guard.damaged()
            if damage is not None:
                raise Failure(f"pass {pass_.name!r} {damage}", PassError, check="tensors") from error
            message = f"pass {pass_.name!r} promises to be {promise.label}, but {error}"
            raise Failure(message, ValidationError, check="numbers", region=error.region) from error
        else:
            self.tensors(pass_)  # an operator in place writes when the graph runs
        finally:
            record.validate_seconds = perf_counter() - start
            record.model_runs = self.validator.runs - runs
        record.error = outputs.error
        record.notes += outputs.excuses
        return outputs

    def profit(self, pass_: Pass, before: Graph, draft: Graph, record: PassRecord) -> None:
        """A pass that is meant to make the graph faster does."""
        if not pass_.must_speed_up:
            return
        samples = self.validator.sets if self.validator is not None else self.context.samples
        slower, found = no_profit(self.context.engine, before, draft, samples[0] if samples else None)
        if slower:
            raise Failure(f"no faster: {found}", PassError, check="profit", benign=True)
        record.notes.append(found)

    def accept(self, draft: Graph, outputs: Outputs | None, promise: Contract) -> None:
        """The draft is the graph that the next pass is held against."""
        self.guard.watch(draft)
        if outputs is not None and self.validator is not None:
            self.validator.accept(outputs, lossy=promise is Contract.LOSSY)

    def end(self, current: Graph, loosest: Contract) -> None:
        """What the checks after each pass left out.

        Raises:
            LateFailure: something is wrong with the result.
        """
        damage = self.guard.damaged()
        if damage is not None:
            raise LateFailure(f"a pass {damage}")
        if current is self.original:
            return
        if not self.settings.full:
            try:
                verify(current)
            except Exception as error:
                raise LateFailure(f"the graph was broken at the end: {error}") from error
        if self.settings.validate == "end" and self.validator is not None and self.validator.ready():
            self._numbers_at_end(self.validator, current, loosest)

    def _numbers_at_end(self, validator: Validator, current: Graph, loosest: Contract) -> None:
        try:
            outputs = validator.check(current, loosest, rounded=new_inexact_constants(self.original, current))
        except (Mismatch, OverBudget) as error:
            raise LateFailure(f"the numbers were wrong at the end: {error}") from error
        validator.accept(outputs, lossy=False)
