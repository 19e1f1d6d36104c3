"""One run of a pipeline: each pass works on a draft, which becomes the graph only if every check holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from graphopt.analysis import CostModel, GraphCost, bind_sizes
from graphopt.errors import PassError
from graphopt.ir import Graph, Value
from graphopt.passmanager.base import Pass, PassResult
from graphopt.passmanager.changes import changed_lines
from graphopt.passmanager.checks import Checks
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.diagnosis import Failure, where_raised
from graphopt.passmanager.explanation import Surroundings, explain
from graphopt.passmanager.guard import Touched
from graphopt.passmanager.instruments import Statistics, gate_of
from graphopt.passmanager.pipeline import Fixpoint, Pipeline, still_changing
from graphopt.passmanager.pipeline_text import print_pipeline
from graphopt.passmanager.properties import objection, update
from graphopt.passmanager.provenance import Alignment, Provenance, Tracker
from graphopt.passmanager.report import DeclinedRule, PassRecord, Report, Status
from graphopt.passmanager.samples import synthesize
from graphopt.passmanager.settings import Settings
from graphopt.rewrite import Contract, RewriteStatistics


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
        self.draft: tuple[Graph, dict[Value, Value]] | None = None
        self.properties = set(context.properties)
        self.loosest = Contract.BITWISE
        self.promise: Contract | None = None
        self.applications = 0
        self.report = Report(str(pipeline), context.target, validate=str(settings.validate or "off"))
        samples = self._samples()
        self.checks = Checks(graph, context, settings, samples, made_up=not context.samples)
        self.costs = CostModel(bind_sizes(graph.inputs, samples[0]) if samples else {})
        self.cost: GraphCost = self.costs.graph(graph)

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
            self.checks.end(self.current, self.loosest)
        finally:
            self._finish(start)
        self.context.properties.clear()
        self.context.properties.update(self.properties)
        return self.current if self.current is not self.original else self._copy(), self.report

    def _finish(self, start: float) -> None:
        report, validator = self.report, self.checks.validator
        report.after = self.cost if self.current is self.original else self.costs.graph(self.current)
        report.seconds = perf_counter() - start
        report.sizes = dict(self.costs.sizes.bindings)
        if validator is not None:
            report.model_runs, report.samples = validator.runs, validator.num_sets
            report.validate = "off" if validator.refused else report.validate
            report.total_error = validator.current_error
            report.notes += validator.notes
        for instrument in self.instruments:
            instrument.finish(report)

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
        record.first_application = self.applications + 1
        self.report.records.append(record)
        before = self.current
        reason = objection(pass_, self.properties)
        if reason is not None:
            record.status, record.reason = (
                Status.SKIPPED,
                f"{reason} (an earlier pass was undone, or a loop came round)",
            )
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
        checks, before = self.checks, self.current
        (draft, images), touched = self._take_draft(), Touched()
        tracker = Tracker(images)
        self.promise = None
        result = self._run_pass(pass_, draft, (touched, tracker), record)
        self._note(record, result)
        checks.tensors(pass_)
        changed = checks.truth(pass_, before, draft, result, touched)
        if result.changed:
            self.draft = None
            checks.graph(pass_, before, draft, touched, record)
        if changed:
            promise = self.promise = pass_.promise(result)
            record.promise = promise.label
            step = Alignment(before, draft, tracker, pass_)
            for instrument in self.instruments:
                instrument.before_validation(pass_, draft)
            outputs = checks.numbers(pass_, step, promise, record)
            checks.profit(pass_, before, draft, record)
            checks.accept(draft, outputs, promise)
            self.loosest = max(self.loosest, promise)
            self._keep(step, record)
        elif result.changed:
            record.notes.append("it says that it changed the graph, but left it as it was")
        update(self.properties, pass_)

    def _run_pass(self, pass_: Pass, draft: Graph, watch: tuple[Touched, Tracker], record: PassRecord) -> PassResult:
        listeners = [i.listener() for i in self.instruments]
        context = replace(
            self.context,
            listeners=[*self.context.listeners, *watch, *(one for one in listeners if one is not None)],
            # Counted last, so that what another gate forbids has no number.
            gate=gate_of(self.instruments, self.context.gate, watch[1].allow),
            properties=set(self.properties),
            calibration=self._calibration(),
        )
        start = perf_counter()
        try:
            result = pass_.run(draft, context)
        except Exception as error:
            if getattr(error, "requested", False):
                record.status, record.reason = Status.FAILED, str(error)
                raise
            raise Failure(f"pass {pass_.name!r} raised {where_raised(error)}", PassError, check="raised") from error
        finally:
            record.seconds = perf_counter() - start
            record.applications = len(watch[1].applications)
            self.applications += record.applications
        if not isinstance(result, PassResult):
            message = f"pass {pass_.name!r} returned {result!r}; it must return a PassResult"
            raise Failure(message, PassError, check="raised")
        return result

    def _note(self, record: PassRecord, result: PassResult) -> None:
        record.notes += result.notes
        record.details = result.details
        if result.statistics is None:
            return
        record.applied = applied(result.statistics)
        record.declined = declined(result.statistics)
        record.rules = result.statistics.rules
        for instrument in self.instruments:
            if isinstance(instrument, Statistics):
                instrument.after_rules(result.statistics.rules)

    def _keep(self, step: Alignment, record: PassRecord) -> None:
        self.current = step.after
        record.changes = changed_lines(step)
        self._tell(step)
        self.cost = self.costs.graph(step.after, peak=False)
        record.after = self.cost
        record.status = Status.KEPT

    def _fail(self, pass_: Pass, record: PassRecord, failure: Failure) -> None:
        self.draft = None
        message, final = str(failure), failure.final
        written = self.checks.guard.written()
        if written is not None:
            message += f"\n  it also {written}"
            final |= not self.checks.guard.recoverable
        finding = explain(pass_, failure, self.current, self._surroundings(record, message))
        # The search ran the pass again, and what that wrote was put back: no later pass is to blame for it.
        self.checks.guard.written()
        message = record.reason = str(finding)
        record.check = failure.check
        record.finding = None if failure.benign else finding
        if (self.settings.on_failure == "raise" and not failure.benign) or final:
            record.status = Status.FAILED
            error = failure.kind(message)
            error.finding = finding
            raise error from failure.__cause__
        record.status = Status.ROLLED_BACK

    def _surroundings(self, record: PassRecord, message: str) -> Surroundings:
        context = replace(self.context, properties=set(self.properties))
        offset = record.first_application - 1
        made = record.applications
        return Surroundings(self.checks, context, self.settings, self.promise, made, offset, message)

    # Drafts and samples

    def _calibration(self) -> Iterable[Any] | None:
        inputs = self.context.calibration
        for instrument in self.instruments if inputs is not None else ():
            inputs = instrument.watch_calibration(inputs)
        return inputs

    def _take_draft(self) -> tuple[Graph, dict[Value, Value]]:
        """A copy of the current graph to work on. A pass that changed nothing leaves its draft to the next."""
        if self.draft is None:
            images: dict[Value, Value] = {}
            self.draft = self.current.clone(images), images
        return self.draft

    def _copy(self) -> Graph:
        """A copy of the original, as the result of a run that changed nothing."""
        copy, images = self._take_draft()
        self._tell(Alignment(self.original, copy, Tracker(images)))
        return copy

    def _tell(self, step: Alignment) -> None:
        for instrument in self.instruments:
            if isinstance(instrument, Provenance):
                instrument.add(step)

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


def applied(statistics: RewriteStatistics) -> dict[str, int]:
    """How often each rule was applied, folds and removals included."""
    others = {"fold": statistics.folded, "remove unused": statistics.erased}
    return {**statistics.applied, **{name: count for name, count in others.items() if count}}


def declined(statistics: RewriteStatistics) -> list[DeclinedRule]:
    """Why rules left nodes alone, with a few of the nodes."""
    examples: dict[tuple[str, str], list[str]] = {}
    for one in statistics.declined:
        examples.setdefault((one.rule, one.reason), []).append(f"{one.node} ({one.location})")
    return [
        DeclinedRule(rule.name, reason, count, examples.get((rule.name, reason), []))
        for rule in statistics.rules.values()
        for reason, count in rule.reasons.items()
    ]
