"""What a person is told of a failure: the application, the node, the source line, and a small file that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.ir import Graph, print_graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.bisection import Culprit
from graphopt.passmanager.checks import Checks
from graphopt.passmanager.context import PassContext
from graphopt.passmanager.diagnosis import Failure, diagnose
from graphopt.passmanager.replay import replay
from graphopt.passmanager.report import PassRecord
from graphopt.passmanager.reproducer import Recipe, opt_command, write_reproducer
from graphopt.passmanager.reruns import Rerun, Reruns
from graphopt.passmanager.settings import Settings
from graphopt.passmanager.shrink import Case, Shrunk, shrink
from graphopt.rewrite import Contract

FOLDER = Path("graphopt-reproducers")
"""Where reproducers go unless a folder is given."""


@dataclass(frozen=True)
class Surroundings:
    """Where a failure happened: the checks of the run, the promise that the pass was held to (None if it did not get so
    far), how many rule applications the pass made, and the pipeline before it, and the message."""

    checks: Checks
    context: PassContext
    settings: Settings
    promise: Contract | None
    applications: int
    offset: int
    message: str


@dataclass(frozen=True)
class Finding:
    """What is known of a failure: its message, what found it, who is to blame, and a small graph that still fails.

    check: see `Failure`. culprit: None where no rule can be blamed. shrunk: None if it was not asked for.
    path, command: the reproducer, and what runs it again.
    """

    message: str
    check: str
    culprit: Culprit | None = None
    shrunk: Shrunk | None = None
    path: Path | None = None
    command: str = ""

    @property
    def fault(self) -> str:
        """What is wrong, and who is to blame."""
        # The message of a rule that raised names rule and node already.
        place = self.culprit.place if self.culprit is not None and self.check != "raised" else ""
        return f"{self.message}\n  {place}" if place else self.message

    def _cost(self) -> list[str]:
        culprit, shrunk = self.culprit, self.shrunk
        assert shrunk is not None
        found = f"found in {culprit.runs} runs of the pass; " if culprit is not None else ""
        if not shrunk.fails:
            return [f"{found}the pass does not fail on this graph alone, so the reproducer is not shrunk"]
        nodes = len(shrunk.case.graph)
        size = f"{nodes} node{'s' if nodes != 1 else ''}"
        return [f"{found}shrunk to {size} in {shrunk.runs} runs, {shrunk.seconds:.1f} s:"]

    def _graph(self) -> list[str]:
        assert self.shrunk is not None
        graph = self.shrunk.case.graph
        if not self.shrunk.fails or len(graph) > 12:
            return []
        return [f"  {line}" for line in print_graph(graph).splitlines()[1:-1]]

    def __str__(self) -> str:
        lines = [self.fault]
        if self.shrunk is not None:
            lines += [*self._cost(), *self._graph()]
        if self.command:
            lines.append(f"run again: {self.command}")
        return "\n  ".join(lines)


def explain(pass_: Pass, failure: Failure, graph: Graph, where: Surroundings) -> Finding:
    """Find out what is known of a failure of `pass_` on `graph`, as far as the settings ask for it."""
    level = where.settings.explain
    if level == "no" or failure.benign:
        return Finding(where.message, failure.check)
    culprit = _locate(pass_, failure, graph, where)
    samples = list(where.checks.validator.sets) if where.checks.validator is not None else []
    if level == "locate":
        if where.settings.reproducers is None:
            return Finding(where.message, failure.check, culprit)
        found = Finding(where.message, failure.check, culprit)
        return _written(found, pass_, graph, samples, where)
    shrunk = shrink_failure(pass_, failure.check, graph, samples, culprit, where.context, where.settings)
    found = Finding(where.message, failure.check, culprit, shrunk)
    if not shrunk.fails:
        return _written(found, pass_, graph, samples, where)
    small = [shrunk.case.inputs] if shrunk.case.inputs is not None else []
    return _written(found, pass_, shrunk.case.graph, small, where)


def _locate(pass_: Pass, failure: Failure, graph: Graph, where: Surroundings) -> Culprit | None:
    """The reruns happen under the checks of the run that failed."""

    def judge(rerun: Rerun) -> Failure | None:
        return where.checks.judge(pass_, graph, rerun, where.promise)

    return diagnose(Reruns(pass_, graph, where.context), judge, failure, where.applications, where.offset)


def shrink_failure(
    pass_: Pass,
    check: str,
    graph: Graph,
    samples: Sequence[Sequence[Any]],
    culprit: Culprit | None,
    context: PassContext,
    settings: Settings,
) -> Shrunk:
    """Shrink a graph on which a pass fails; start around the node that is to blame, if one is."""
    inputs = list(samples[0]) if samples else None
    rule = culprit.rule if culprit is not None else ""

    def fails(case: Case) -> bool:
        given = [case.inputs] if case.inputs is not None else []
        record = replay(pass_, case.graph, given, context, settings)
        return record is not None and record.check == check and (not rule or _blamed(rule, record))

    if culprit is not None and culprit.roots:
        found = shrink(Case(culprit.before, inputs), culprit.roots, fails)
        if found.fails or culprit.before is graph:
            return found
    return shrink(Case(graph, inputs), (), fails)


def _blamed(rule: str, record: PassRecord) -> bool:
    """A rule that raised was not applied: the message names it."""
    return rule in record.applied or f"rule {rule!r} raised" in record.reason


def _written(
    found: Finding, pass_: Pass, graph: Graph, samples: Sequence[Sequence[Any]], where: Surroundings
) -> Finding:
    settings, context = where.settings, where.context
    recipe = Recipe(pass_, context.target, context.trainable, settings.budget, frozenset(context.properties))
    path = write_reproducer(settings.reproducers or FOLDER, graph, recipe, samples, found.fault)
    return Finding(found.message, found.check, found.culprit, found.shrunk, path, opt_command(path, pass_))
