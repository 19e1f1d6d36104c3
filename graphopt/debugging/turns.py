"""What a pass did each time that it ran in a pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.debugging.explanation import RuleCount
from graphopt.ir import Graph
from graphopt.passmanager import BaseInstrument, Pass, PassRecord, Report, Status


@dataclass
class Turn:
    """One run of the pass: its record, the graph after it, and how many steps had been kept by then."""

    pass_: Pass
    record: PassRecord
    after: Graph
    steps: int


class Turns(BaseInstrument):
    """Keeps the turns of the pass of a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turns: list[Turn] = []
        self._running: Pass | None = None
        self._steps = 0

    def before_pass(self, pass_: Pass, graph: Graph) -> None:
        self._running = pass_

    def after_pass(self, record: PassRecord, before: Graph, after: Graph) -> None:
        self._steps += record.status is Status.KEPT
        if record.name == self.name and self._running is not None:
            self.turns.append(Turn(self._running, record, after, self._steps))


def rule_counts(report: Report, pass_: str | None = None) -> list[RuleCount]:
    """What each rule did over the runs of a pass, or of all passes; the most attempts first within a pass."""
    counts: dict[tuple[str, str], RuleCount] = {}
    for record in report.records:
        if pass_ is not None and record.name != pass_:
            continue
        for rule in record.rules.values():
            key = (record.name, rule.name)
            old = counts.get(key, RuleCount(*key, 0, 0, 0, 0.0))
            counts[key] = RuleCount(
                *key,
                old.attempts + rule.attempts,
                old.matches + rule.matches,
                old.applied + rule.applied,
                old.seconds + rule.seconds,
            )
    order = {record.name: None for record in report.records}
    ranks = {name: rank for rank, name in enumerate(order)}
    return sorted(counts.values(), key=lambda c: (ranks[c.pass_], -c.applied, -c.matches, -c.attempts))
