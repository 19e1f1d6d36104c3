"""One run of a pipeline: each pass works on a draft, which becomes the graph only if every check holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from graphopt.analysis import CostModel, GraphCost, bind_sizes
from graphopt.errors import GraphOptError, PassError, ValidationError, VerificationError
from graphopt.ir import Graph, difference, verify
from graphopt.passmanager.base import Pass, PassResult
from graphopt.passmanager.budget import Budget, OverBudget
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.diagnosis import Failure, diagnose, where_raised
from graphopt.passmanager.guard import (
    TensorGuard,
    Touched,
    interface_difference,
    new_inexact_constants,
    verify_touched,
)
from graphopt.passmanager.instruments import Statistics, gate_of
from graphopt.passmanager.pipeline import Fixpoint, Pipeline, still_changing
from graphopt.passmanager.pipeline_text import print_pipeline
from graphopt.passmanager.profit import no_profit
from graphopt.passmanager.properties import objection, update
from graphopt.passmanager.report import DeclinedRule, PassRecord, Report, Status
from graphopt.passmanager.samples import synthesize
from graphopt.passmanager.validation import Mismatch, Outputs, Validator
from graphopt.rewrite import Contract


@dataclass(frozen=True)
class Settings:
    """How a manager checks. `full`: verify everything after each pass, and doubt what passes say of themselves."""

    validate: Literal["each", "end", False] = "each"
    on_failure: Literal["rollback", "raise"] = "rollback"
    budget: Budget | None = None
    full: bool = False
    reproducers: Path | None = None

    def thorough(self) -> Settings:
        """Return these settings with every check after each pass."""
        return replace(self, full=True, validate="each" if self.validate else False)


class LateFailure(GraphOptError):
    """A check at the end of the pipeline failed, and the pass to blame is not known."""


class Session:
    """Runs a pipeline on a graph. The graph itself is never changed: rolling back is dropping a draft."""

    def __init__(
        self, pipeline: Pipeline, graph: Graph, context: PassContext, settings: Settings, instruments: Sequence[Any]
    ) -> None:
        self.pipeline = pipeline
        self.original = graph
        self.context = context
        self.settings = settings
        self.instruments = list(instruments)
        self.current = graph
        self.draft: Graph | None = None
        self.properties = set(context.properties)
        self.loosest = Contract.BITWISE
        self.report = Report(str(pipeline), context.target, validate=str(settings.validate or "off"))
        samples = self._samples()
        self.validator = Validator(graph, samples, budget=settings.budget) if samples is not None else None
        self.costs = CostModel(_sizes(graph, samples))
        self.cost: GraphCost = self.costs.graph(graph)
        self.guard = TensorGuard(graph, samples or (), backup=self.validator is not None)

    def run(self) -> tuple[Graph, Report]:
        """Run the pipeline; return the optimized graph and the report.

        Raises:
            LateFailure: a check at the end failed.
        """
        start = perf_counter()
        self.report.before = self.cost
        for instrument in self.instruments:
            instrument.start(self.pipeline, self.original)
        try:
            self._walk(self.pipeline, "")
            self._check_end()
        finally:
            self.context.properties.clear()
            self.context.properties.update(self.properties)
            self.report.after = self.cost if self.current is self.original else self.costs.graph(self.current)
            self.report.seconds = perf_counter() - start
            if self.validator is not None:
                self.report.model_runs = self.validator.runs
                self.report.samples = self.validator.num_sets
                self.report.total_error = self.validator.current_error
                self.report.notes += self.validator.notes
            for instrument in self.instruments:
                instrument.finish(self.report)
        return self.current if self.current is not self.original else self._take_draft(), self.report

    # The walk

    def _walk(self, pass_: Pass, where: str) -> bool:
        if isinstance(pass_, Fixpoint):
            return self._loop(pass_, where)
        if isinstance(pass_, Pipeline):
            return self._row(pass_, where)
        return self._step(pass_, where)

    def _row(self, pipeline: Pipeline, where: str) -> bool:
        changed = False
        for pass_ in pipeline.passes:
            changed |= self._walk(pass_, where)
        return changed

    def _loop(self, loop: Fixpoint, where: str) -> bool:
        changed = False
        for round_ in range(1, loop.limit + 1):
            if not self._row(loop, f"{where}fixpoint[{round_}]"):
                return changed
            changed = True
        self.report.notes.append(still_changing(loop))
        return changed

    def _step(self, pass_: Pass, where: str) -> bool:
        """Run one pass; return whether it changed the graph and was kept."""
        record = PassRecord(pass_.name, print_pipeline(pass_), where, pass_.contract.label, before=self.cost)
        self.report.records.append(record)
        before = self.current
        reason = objection(pass_, self.properties)
        if reason is not None:
            record.status, record.reason = Status.SKIPPED, f"{reason}; the pass that makes it so was undone"
        else:
            for instrument in self.instruments:
                instrument.before_pass(pass_, before)
            try:
                self._attempt(pass_, record)
            except Failure as failure:
                self._fail(pass_, record, failure)
        for instrument in self.instruments:
            instrument.after_pass(record, before, self.current)
        return record.status is Status.KEPT

    def _attempt(self, pass_: Pass, record: PassRecord) -> None:
        draft, touched = self._take_draft(), Touched()
        result = self._run_pass(pass_, draft, touched, record)
        self._note(record, result)
        self._check_tensors(pass_)
        changed = self._changed(pass_, draft, result, touched)
        if not changed:
            update(self.properties, pass_)
            return
        self.draft = None
        self._check_graph(draft, pass_, touched, record)
        promise = pass_.promise(result)
        record.promise = promise.label
        outputs = self._check_numbers(pass_, draft, promise, record)
        self._check_profit(pass_, draft, record)
        if outputs is not None and self.validator is not None:
            self.validator.accept(outputs, lossy=promise is Contract.LOSSY)
        self.loosest = max(self.loosest, promise)
        self._keep(pass_, draft, record)

    def _run_pass(self, pass_: Pass, draft: Graph, touched: Touched, record: PassRecord) -> PassResult:
        listeners = [i.listener() for i in self.instruments]
        context = replace(
            self.context,
            listeners=[*self.context.listeners, touched, *(one for one in listeners if one is not None)],
            gate=gate_of(self.instruments, self.context.gate),
            properties=set(self.properties),
        )
        start = perf_counter()
        try:
            result = pass_.run(draft, context)
        except Exception as error:
            raise Failure(f"pass {pass_.name!r} raised {where_raised(error)}", PassError) from error
        finally:
            record.seconds = perf_counter() - start
        if not isinstance(result, PassResult):
            raise Failure(f"pass {pass_.name!r} returned {result!r}; it must return a PassResult", PassError)
        return result

    def _note(self, record: PassRecord, result: PassResult) -> None:
        record.notes += result.notes
        statistics = result.statistics
        if statistics is None:
            return
        record.applied = dict(statistics.applied)
        for name, count in (("fold", statistics.folded), ("remove unused", statistics.erased)):
            if count:
                record.applied[name] = count
        examples: dict[tuple[str, str], list[str]] = {}
        for declined in statistics.declined:
            examples.setdefault((declined.rule, declined.reason), []).append(f"{declined.node} ({declined.location})")
        for rule in statistics.rules.values():
            for reason, count in rule.reasons.items():
                record.declined.append(DeclinedRule(rule.name, reason, count, examples.get((rule.name, reason), [])))
        for instrument in self.instruments:
            if isinstance(instrument, Statistics):
                instrument.after_rules(statistics.rules)

    # Checks

    def _check_tensors(self, pass_: Pass) -> None:
        written = self.guard.written() or (self.guard.damaged() if self.settings.full else None)
        if written is not None:
            raise Failure(f"pass {pass_.name!r} {written}", PassError, final=not self.guard.recoverable)

    def _changed(self, pass_: Pass, draft: Graph, result: PassResult, touched: Touched) -> bool:
        if not result.changed and touched.any:
            raise Failure(
                f"pass {pass_.name!r} says that it changed nothing, but it changed {_listed(touched)}", PassError
            )
        if self.settings.full:
            found = difference(self.current, draft)
            if found is not None and not result.changed:
                raise Failure(f"pass {pass_.name!r} says that it changed nothing, but {found}", PassError)
            if found is None and result.changed:
                return False
        return result.changed

    def _check_graph(self, draft: Graph, pass_: Pass, touched: Touched, record: PassRecord) -> None:
        start = perf_counter()
        try:
            verify(draft) if self.settings.full else verify_touched(draft, touched)
            found = interface_difference(self.current, draft)
            if found is not None:
                raise VerificationError(found)
        except Exception as error:  # a graph may be broken in ways that the verifier itself trips over
            raise Failure(f"pass {pass_.name!r} returned a broken graph: {error}", PassError) from error
        finally:
            record.verify_seconds = perf_counter() - start

    def _check_numbers(self, pass_: Pass, draft: Graph, promise: Contract, record: PassRecord) -> Outputs | None:
        if self.settings.validate != "each" or self.validator is None:
            return None
        start, runs = perf_counter(), self.validator.runs
        rounded = new_inexact_constants(self.current, draft)
        try:
            outputs = self.validator.check(draft, promise, rounded=rounded)
        except OverBudget as error:
            raise Failure(f"pass {pass_.name!r}: {error}", ValidationError) from error
        except Mismatch as error:
            damage = self.guard.damaged()
            if damage is not None:
                raise Failure(f"pass {pass_.name!r} {damage}", PassError) from error
            culprit = diagnose(pass_, self.current, self.context, self.validator, promise)
            message = f"pass {pass_.name!r} promises to be {promise.label}, but {error}"
            raise Failure(f"{message}{culprit}", ValidationError) from error
        finally:
            record.validate_seconds = perf_counter() - start
            record.model_runs = self.validator.runs - runs
        record.error = outputs.error
        record.notes += outputs.excuses
        return outputs

    def _check_profit(self, pass_: Pass, draft: Graph, record: PassRecord) -> None:
        """Revert a pass that was to make the graph faster, and does not."""
        if not pass_.must_speed_up:
            return
        samples = self.validator.sets if self.validator is not None else self.context.samples
        slower, found = no_profit(self.context.engine, self.current, draft, samples[0] if samples else None)
        if slower:
            raise Failure(f"no faster: {found}", PassError, benign=True)
        record.notes.append(found)

    def _keep(self, pass_: Pass, draft: Graph, record: PassRecord) -> None:
        self.current = draft
        self.cost = self.costs.graph(draft, peak=False)
        record.after = self.cost
        record.status = Status.KEPT
        self.guard.watch(draft)
        update(self.properties, pass_)

    def _fail(self, pass_: Pass, record: PassRecord, failure: Failure) -> None:
        self.draft = None
        message = str(failure)
        written = self.guard.written()
        if written is not None:
            message += f"\n  it also {written}"
            failure.final |= not self.guard.recoverable
        if self.settings.reproducers is not None and not failure.benign:
            from graphopt.passmanager.reproducer import write_reproducer

            samples = self.validator.sets if self.validator is not None else ()
            path = write_reproducer(self.settings.reproducers, self.current, pass_, samples, message)
            message += f"\n  run again: graphopt opt {path}"
        record.reason = message
        if (self.settings.on_failure == "raise" and not failure.benign) or failure.final:
            record.status = Status.FAILED
            raise failure.kind(message) from failure.__cause__
        record.status = Status.ROLLED_BACK

    def _check_end(self) -> None:
        if self.current is self.original:
            return
        try:
            if not self.settings.full:
                verify(self.current)
        except Exception as error:
            raise LateFailure(f"the graph was broken at the end: {error}") from error
        damage = self.guard.damaged()
        if damage is not None:
            raise LateFailure(f"a pass {damage}")
        if self.settings.validate == "end" and self.validator is not None:
            try:
                rounded = new_inexact_constants(self.original, self.current)
                outputs = self.validator.check(self.current, self.loosest, rounded=rounded)
            except (Mismatch, OverBudget) as error:
                raise LateFailure(f"the numbers were wrong at the end: {error}") from error
            self.validator.accept(outputs, lossy=False)

    # Drafts and samples

    def _take_draft(self) -> Graph:
        """A copy of the current graph to work on. A pass that changed nothing leaves its draft to the next."""
        if self.draft is None:
            self.draft = self.current.clone()
        return self.draft

    def _samples(self) -> list[Sequence[Any]] | None:
        if not self.settings.validate:
            return None
        if self.context.samples:
            return list(self.context.samples)
        made = synthesize(self.original)
        if made is None:
            self.report.validate = "off"
            self.report.notes.append(
                "numbers were not validated: there are no sample inputs, and they cannot be made up for inputs that "
                "are not all floating-point tensors; give samples"
            )
            return None
        self.report.notes.append(
            "numbers were validated on made-up inputs (standard normal); give samples for real ones"
        )
        return [made]


def _sizes(graph: Graph, samples: Sequence[Sequence[Any]] | None) -> dict[str, int]:
    return bind_sizes(graph.inputs, samples[0]) if samples else {}


def _listed(touched: Touched) -> str:
    if not touched.nodes:
        return f"the graph: it removed {touched.removals} nodes"
    first = next(iter(touched.nodes))
    others = len(touched.nodes) - 1
    return f"{first!r} (from {first.location})" + (f" and {others} other nodes" if others else "")
