"""What the rules of a run did: attempts, matches, applications, and why they declined."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from graphopt.ir import Location, Node

EXAMPLES = 8
"""How many declined nodes are kept for each reason."""


@dataclass(slots=True)
class Declined:
    """A match that a rule turned down, or an application that would have changed a type."""

    rule: str
    node: str
    reason: str
    location: Location


@dataclass(slots=True)
class RuleStatistics:
    """The counts of one rule. `seconds` covers what follows a structural match: the check and the rewrite."""

    name: str
    attempts: int = 0
    matches: int = 0
    applied: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class RewriteStatistics:
    """The counts of a run of the driver."""

    rules: dict[str, RuleStatistics] = field(default_factory=dict)
    declined: list[Declined] = field(default_factory=list)
    visits: int = 0
    folded: int = 0
    erased: int = 0

    def rule(self, name: str) -> RuleStatistics:
        """The counts of `name`, made on demand."""
        found = self.rules.get(name)
        if found is None:
            found = self.rules[name] = RuleStatistics(name)
        return found

    @property
    def applied(self) -> dict[str, int]:
        """How often each rule was applied, without those that never were."""
        return {name: s.applied for name, s in self.rules.items() if s.applied}

    @property
    def changes(self) -> int:
        """The number of rewrites, folds and removals."""
        return sum(s.applied for s in self.rules.values()) + self.folded + self.erased

    def decline(self, rule: str, node: Node, reason: str) -> None:
        """Record why `rule` left `node` alone."""
        counts = self.rule(rule).reasons
        counts[reason] += 1
        if counts[reason] <= EXAMPLES:
            self.declined.append(Declined(rule, repr(node), reason, node.location))

    def merge(self, other: RewriteStatistics) -> None:
        """Add the counts of another run."""
        for name, counts in other.rules.items():
            mine = self.rule(name)
            mine.attempts += counts.attempts
            mine.matches += counts.matches
            mine.applied += counts.applied
            mine.seconds += counts.seconds
            mine.reasons += counts.reasons
        self.declined += other.declined
        self.visits += other.visits
        self.folded += other.folded
        self.erased += other.erased
