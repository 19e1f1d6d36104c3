"""Instruments: small observers of a run. Give several to the pass manager; each does one thing.

Further ones are chosen by environment variables: `GRAPHOPT_LOG` (a logging level) adds a `Journal`,
`GRAPHOPT_BISECT_MAX` (a number) an `ApplicationLimit`, `GRAPHOPT_DUMP` (a folder) a `DumpDirectory`.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Node, Value, print_graph
from graphopt.passmanager.base import Pass
from graphopt.passmanager.pipeline import Pipeline
from graphopt.passmanager.report import PassRecord, Report, Status
from graphopt.rewrite import Listener, RuleStatistics


@runtime_checkable
class Instrument(Protocol):
    """What the manager tells an instrument. `BaseInstrument` does nothing at each call; override what you need."""

    def start(self, pipeline: Pipeline, graph: Graph) -> None:
        """A run begins."""

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        """A pass is about to run on (a copy of) `graph`."""

    def before_validation(self, pass_: Pass, graph: Graph) -> None:
        """A pass made `graph`, whose numbers are about to be validated."""

    def watch_calibration(self, inputs: Iterable[Any]) -> Iterable[Any]:
        """What a pass gets as calibration inputs; `inputs` itself, or something that yields the same."""

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        """A pass has run; `after` is the graph that was kept (`before` itself, unless it was changed)."""

    def finish(self, report: Report) -> None:
        """The run is over."""

    def allow(self, rule: str, node: Node) -> bool:
        """Whether a rule may be applied to a node."""

    def listener(self) -> Listener | None:
        """A listener of every mutation, or None."""


class BaseInstrument:
    """An instrument that does nothing."""

    def start(self, pipeline: Pipeline, graph: Graph) -> None:
        """A run begins."""

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        """A pass is about to run."""

    def before_validation(self, pass_: Pass, graph: Graph) -> None:
        """A pass made `graph`, whose numbers are about to be validated."""

    def watch_calibration(self, inputs: Iterable[Any]) -> Iterable[Any]:
        """What a pass gets as calibration inputs."""
        return inputs

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        """A pass has run."""

    def finish(self, report: Report) -> None:
        """The run is over."""

    def allow(self, rule: str, node: Node) -> bool:
        """Whether a rule may be applied to a node."""
        return True

    def listener(self) -> Listener | None:
        """A listener of every mutation, or None."""
        return None


class Timing(BaseInstrument):
    """Adds up the seconds of each pass: in the pass, in verification, in validation."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float, float]] = {}

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        old = self.seconds.get(record.name, (0.0, 0.0, 0.0))
        new = (record.seconds, record.verify_seconds, record.validate_seconds)
        self.seconds[record.name] = (old[0] + new[0], old[1] + new[1], old[2] + new[2])

    def __str__(self) -> str:
        lines = [f"{'pass':<32} {'run':>10} {'verify':>10} {'validate':>10}"]
        for name, times in sorted(self.seconds.items(), key=lambda item: -sum(item[1])):
            lines.append(f"{name:<32} " + " ".join(f"{1e3 * t:>7.1f} ms" for t in times))
        return "\n".join(lines)


class PrintAfterChange(BaseInstrument):
    """Prints what each pass changed as a unified diff of the text form."""

    def __init__(self, file: TextIO | None = None, *, context: int = 3, locations: bool = False) -> None:
        self.file = file
        self.context = context
        self.locations = locations

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        if after is before:
            return
        old, new = (print_graph(g, locations=self.locations).splitlines() for g in (before, after))
        lines = difflib.unified_diff(old, new, "before", f"after {record.text}", lineterm="", n=self.context)
        print("\n".join(lines), file=self.file or sys.stdout)


class DumpDirectory(BaseInstrument):
    """Writes the graph around each pass that changed it: `003-fold-batch-norm.before.txt`, `….after.txt`.

    What a pass made that was then undone is written, too: `….rejected.txt` in place of `….after.txt`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.number = 0
        self.made: Graph | None = None

    def start(self, pipeline: Pipeline, graph: Graph) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise GraphOptError(f"cannot write dumps to {self.folder}: {error.strerror}") from error

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self.made = None

    def before_validation(self, pass_: Pass, graph: Graph) -> None:
        self.made = graph

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        self.number += 1
        outcome, made = ("after", after) if after is not before else ("rejected", self.made)
        self.made = None
        if made is None:
            return
        stem = f"{self.number:03}-{re.sub(r'[^A-Za-z0-9._-]', '_', record.name)}"
        for suffix, graph in (("before", before), (outcome, made)):
            path = self.folder / f"{stem}.{suffix}.txt"
            try:
                path.write_text(str(graph) + "\n")
            except OSError as error:
                raise GraphOptError(f"cannot write {path}: {error.strerror}") from error


class Statistics(BaseInstrument):
    """Adds up attempts, matches, applications and time of each rule, over all passes."""

    def __init__(self) -> None:
        self.rules: dict[str, RuleStatistics] = {}

    def after_rules(self, rules: dict[str, RuleStatistics]) -> None:
        """Add the counts of a pass."""
        for name, counts in rules.items():
            total = self.rules.setdefault(name, RuleStatistics(name))
            total.attempts += counts.attempts
            total.matches += counts.matches
            total.applied += counts.applied
            total.seconds += counts.seconds
            total.reasons += counts.reasons

    def __str__(self) -> str:
        lines = [f"{'rule':<40} {'attempts':>9} {'matches':>9} {'applied':>9} {'time':>11}"]
        for name, r in sorted(self.rules.items(), key=lambda item: -item[1].seconds):
            lines.append(f"{name:<40} {r.attempts:>9} {r.matches:>9} {r.applied:>9} {1e3 * r.seconds:>8.1f} ms")
        return "\n".join(lines)


class Journal(BaseInstrument):
    """Logs passes (INFO), rollbacks (WARNING) and every mutation (DEBUG) to the logger `graphopt`."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self.logger = logger or logging.getLogger("graphopt")

    def start(self, pipeline: Pipeline, graph: Graph) -> None:
        self.logger.info("run %s on %r", pipeline, graph)

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self.logger.debug("begin %s", pass_.name)

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        bad = record.status in (Status.ROLLED_BACK, Status.FAILED)
        level = logging.WARNING if bad else logging.INFO
        changes = f"{len(before)} → {len(after)} nodes" if record.changed else record.reason
        self.logger.log(level, "%s: %s %s", record.text, record.status.value, changes)

    def listener(self) -> Listener | None:
        return _JournalListener(self.logger) if self.logger.isEnabledFor(logging.DEBUG) else None


class _JournalListener(Listener):
    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def inserted(self, node: Node) -> None:
        self.logger.debug("insert %r  from %s", node, node.location)

    def removed(self, node: Node) -> None:
        self.logger.debug("remove %r", node)

    def modified(self, node: Node) -> None:
        self.logger.debug("modify %r", node)

    def replaced(self, node: Node, values: Sequence[Value]) -> None:
        self.logger.debug("replace %r by %s", node, ", ".join(map(repr, values)))


class ApplicationLimit(BaseInstrument):
    """Lets the first `limit` rule applications through and no more, so that a search finds the one that does harm.

    A rule that is let through and then declines counts, too. count: how many were let through. denied, denied_node: the
    first that was not: rule, node and location as text, and the node itself.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.count = 0
        self.denied: tuple[str, str, str] | None = None
        self.denied_node: Node | None = None

    def allow(self, rule: str, node: Node) -> bool:
        if self.limit is not None and self.count >= self.limit:
            if self.denied is None:
                self.denied, self.denied_node = (rule, repr(node), str(node.location)), node
            return False
        self.count += 1
        return True


def environment_instruments(environment: dict[str, str] | None = None) -> list[BaseInstrument]:
    """Return the instruments that environment variables ask for.

    Raises:
        GraphOptError: a variable with a value that it does not take.
    """
    variables = os.environ if environment is None else environment
    found: list[BaseInstrument] = []
    level = variables.get("GRAPHOPT_LOG")
    if level:
        found.append(Journal(_logger(level)))
    limit = variables.get("GRAPHOPT_BISECT_MAX")
    if limit:
        if not limit.isdigit():
            raise GraphOptError(f"GRAPHOPT_BISECT_MAX takes a number of rule applications, got {limit!r}")
        found.append(ApplicationLimit(int(limit)))
    folder = variables.get("GRAPHOPT_DUMP")
    if folder:
        found.append(DumpDirectory(folder))
    return found


def _logger(level: str) -> logging.Logger:
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise GraphOptError(f"GRAPHOPT_LOG takes a logging level such as INFO or DEBUG, got {level!r}")
    logger = logging.getLogger("graphopt")
    logger.setLevel(number)
    if not logger.handlers and not logging.getLogger().handlers:
        logger.addHandler(logging.StreamHandler())
    return logger


def gate_of(
    instruments: Sequence[Any], *given: Callable[[str, Node], bool] | None
) -> Callable[[str, Node], bool] | None:
    """Join the gates of those instruments that have one, and then the given ones."""
    gates = [i.allow for i in instruments if type(i).allow is not BaseInstrument.allow]
    gates += [gate for gate in given if gate is not None]
    if not gates:
        return None
    return gates[0] if len(gates) == 1 else lambda rule, node: all(gate(rule, node) for gate in gates)
