"""Planted bugs: wrong rules and passes in real models, what catches them, and how long it takes to find out why.

Each bug runs in a pipeline with passes that are right. The check that owns it must catch it; a search names the rule
application, the node and the source line; the graph around it is shrunk to a reproducer, which is run again from its
file.

The bars: every bug is caught by its check, its rule and node named, in at most 2·log2(applications) + 4 runs; the
reproducer has at most 10 nodes, takes at most 200 runs or 60 s to shrink, and fails as the model did.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from common import parse_args, print_table, write_json
from graphopt.errors import GraphOptError
from graphopt.passmanager import PassContext, PassManager, read_reproducer
from graphopt.passmanager.shrink.search import RUNS, SECONDS
from tests.planted.bugs import BUGS, LARGE, Bug
from tests.planted.hunt import hunt

MOST_NODES = 10


@dataclass(frozen=True)
class Row:
    """What became of a bug. locate_runs, limit: runs of the pass to find the application, and the most allowed."""

    bug: str
    model: str
    nodes: int
    applications: int
    expected: str
    caught_by: str
    named: bool
    locate_runs: int
    limit: int
    shrink_runs: int
    shrink_seconds: float
    reproducer_nodes: int
    fails_again: bool
    false_alarms: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every bar holds."""
        return (
            self.caught_by == self.expected
            and self.named
            and self.locate_runs <= self.limit
            and self.shrink_runs <= RUNS
            and self.shrink_seconds <= SECONDS
            and 0 <= self.reproducer_nodes <= MOST_NODES
            and self.fails_again
            and not self.false_alarms
        )


def measure(bug: Bug, folder: Path) -> Row:
    """Hunt a bug."""
    found = hunt(bug, folder)
    finding = found.finding
    culprit = finding.culprit if finding is not None else None
    shrunk = finding.shrunk if finding is not None else None
    return Row(
        bug.name,
        bug.model,
        found.nodes,
        found.applications,
        bug.check,
        found.caught_by,
        found.named,
        culprit.runs if culprit is not None else -1,
        culprit.limit if culprit is not None else -1,
        shrunk.runs if shrunk is not None else -1,
        shrunk.seconds if shrunk is not None else -1.0,
        found.reproducer_nodes,
        finding is not None and finding.path is not None and _fails_again(bug, finding.path),
        len(found.others),
        found.seconds,
    )


def _fails_again(bug: Bug, path: Path) -> bool:
    """Whether the file fails by the same check, with the same rule to blame."""
    read = read_reproducer(path)
    try:
        PassManager(bug.pass_, on_failure="raise").run(read.graph, PassContext(samples=read.samples))
    except GraphOptError as error:
        again = error.finding
        return again is not None and again.check == bug.check and (again.culprit and again.culprit.rule) == bug.rule
    return False


def main() -> None:
    chosen = parse_args(__doc__)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(bug, Path(folder)) for bug in (BUGS if chosen.quick else [*BUGS, *LARGE])]
    print_table(
        "Planted bugs",
        (
            "bug",
            "model",
            "nodes",
            "appl.",
            "caught by",
            "named",
            "runs",
            "limit",
            "shrink",
            "s",
            "left",
            "again",
            "s all",
        ),
        [
            (
                r.bug,
                r.model,
                r.nodes,
                r.applications,
                r.caught_by if r.caught_by == r.expected else f"{r.caught_by}, not {r.expected}",
                r.named,
                r.locate_runs,
                r.limit,
                r.shrink_runs,
                r.shrink_seconds,
                r.reproducer_nodes,
                r.fails_again,
                r.seconds,
            )
            for r in rows
        ],
        "runs: of the pass, to find the application; shrink: runs of candidates; left: nodes of the reproducer; "
        "again: the reproducer fails when it is run from its file",
    )
    held = sum(r.holds for r in rows)
    alarms = sum(r.false_alarms for r in rows)
    print(f"{held} of {len(rows)} bugs hold every bar; {alarms} passes that are right were blamed")
    write_json(chosen.json, "planted_bugs", [{**asdict(r), "holds": r.holds} for r in rows])


if __name__ == "__main__":
    main()
