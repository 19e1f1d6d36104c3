"""Running a planted bug through a pipeline, and what comes of it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from graphopt.passmanager import PassManager, Status
from graphopt.passmanager.explanation import Finding
from tests.planted.bugs import Bug


@dataclass
class Hunt:
    """What was found of a planted bug. applications: of the whole pipeline."""

    bug: Bug
    nodes: int
    applications: int
    finding: Finding | None
    others: list[str]
    seconds: float

    @property
    def caught_by(self) -> str:
        """The check that caught it."""
        return self.finding.check if self.finding is not None else "nothing"

    @property
    def named(self) -> bool:
        """Whether the right rule and node were named, and the right place in the model's source."""
        culprit = self.finding.culprit if self.finding is not None else None
        if culprit is None:
            return False
        right_node = re.search(rf"= \S*{re.escape(self.bug.node)}", culprit.node) is not None
        return culprit.rule == self.bug.rule and right_node and self.bug.place in culprit.location

    @property
    def reproducer_nodes(self) -> int:
        """How many nodes the reproducer has."""
        shrunk = self.finding.shrunk if self.finding is not None else None
        return len(shrunk.case.graph) if shrunk is not None and shrunk.fails else -1


def hunt(bug: Bug, folder: Path) -> Hunt:
    """Run a pipeline with the bug in it. `others` names other passes that failed."""
    graph, context = bug.build()
    start = time.perf_counter()
    pipeline = ["canonicalize", bug.pass_, "fold-constants", "common-subexpressions", "dead-code"]
    manager = PassManager(pipeline, on_error="bisect", reproducers=folder)
    _, report = manager.run(graph, context)
    seconds = time.perf_counter() - start
    failed = [r for r in report.records if r.status in (Status.ROLLED_BACK, Status.FAILED)]
    finding = next((r.finding for r in failed if r.name == bug.pass_.name), None)
    others = [r.name for r in failed if r.name != bug.pass_.name]
    applications = sum(r.applications for r in report.records)
    return Hunt(bug, len(graph), applications, finding, others, seconds)
