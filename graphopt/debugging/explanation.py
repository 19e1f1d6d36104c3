"""Why a pass did what it did, and why not more: the data of an explanation. `explain` makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from graphopt.rewrite.attempts import Attempt, Stage


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that the pass looked at and left alone.

    node: as text. location, scope: where it came from. attempts: what each rule made of it, the closest first.
    reason: what the pass itself says of the node (see `Explains`), or "".
    """

    node: str
    name: str
    op: str
    location: str
    scope: str
    attempts: tuple[Attempt, ...] = ()
    reason: str = ""

    @property
    def closest(self) -> Attempt | None:
        """The attempt that came closest."""
        return self.attempts[0] if self.attempts else None

    @property
    def closeness(self) -> tuple[int, float, int]:
        """What candidates are sorted by; what a pass says itself comes before what did not match."""
        if self.reason:
            return (Stage.CHECK, 1.0, 0)
        return self.attempts[0].closeness if self.attempts else (Stage.PATTERN, 0.0, 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as JSON values."""
        return {
            **{name: getattr(self, name) for name in ("node", "name", "op", "location", "scope", "reason")},
            "attempts": [attempt_dict(attempt) for attempt in self.attempts],
        }


@dataclass(frozen=True, slots=True)
class Applied:
    """An application of a rule: the `number`th of step `step`, at `node`, which came from `location`."""

    step: int
    number: int
    rule: str
    node: str
    location: str

    def to_dict(self) -> dict[str, Any]:
        """Return the application as JSON values."""
        return {name: getattr(self, name) for name in ("step", "number", "rule", "node", "location")}


@dataclass(frozen=True, slots=True)
class NodeHistory:
    """Where a node of the result came from.

    location, scope: the model's source line and module. original: the node of the original graph, or "".
    events: what made or changed it since, oldest first, each `step N, pass P, rule R, application M, at node`.
    rules: the names alone.
    """

    node: str
    name: str
    location: str
    scope: str
    original: str
    events: tuple[str, ...]
    rules: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the history as JSON values."""
        plain = ("node", "name", "location", "scope", "original")
        return {
            **{name: getattr(self, name) for name in plain},
            "events": list(self.events),
            "rules": list(self.rules),
        }


@dataclass(frozen=True, slots=True)
class RuleCount:
    """What a rule did over the runs of a pass: `attempts` at nodes, structural `matches`, how often it `applied`."""

    pass_: str
    rule: str
    attempts: int
    matches: int
    applied: int
    seconds: float

    @property
    def fired(self) -> bool:
        """True if the rule was applied."""
        return self.applied > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {
            "pass": self.pass_,
            **{name: getattr(self, name) for name in ("rule", "attempts", "matches", "applied", "seconds")},
        }


@dataclass
class Explanation:
    """What a pass did and did not do. `print` it, or take `to_dict()`, `to_json()`, `rich()`.

    pass_: its name. where: which graph the candidates are of. node: what was asked for, or "".
    applied: the applications of its rules. candidates: what it left alone, the closest first.
    fates: what became of nodes that were asked for and are gone. histories: of the nodes of the result.
    rules: counts of its rules. notes: what the pass and the manager say, such as why it was undone.
    """

    pass_: str
    where: str
    node: str = ""
    applied: list[Applied] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    fates: list[str] = field(default_factory=list)
    histories: list[NodeHistory] = field(default_factory=list)
    rules: list[RuleCount] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def never_fired(self) -> list[RuleCount]:
        """The rules that were tried and never applied."""
        return [count for count in self.rules if not count.fired]

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON values."""
        parts = ("applied", "candidates", "histories", "rules")
        return {
            "pass": self.pass_,
            **{name: getattr(self, name) for name in ("where", "node", "fates", "notes")},
            **{name: [item.to_dict() for item in getattr(self, name)] for name in parts},
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return the explanation as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        from graphopt.debugging.explanation_text import explanation_text

        return explanation_text(self)

    def rich(self) -> Any:
        """Return the explanation as a renderable of the library rich."""
        from graphopt.debugging.explanation_text import explanation_view

        return explanation_view(self)


def attempt_dict(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as JSON values."""
    return {
        **{name: getattr(attempt, name) for name in ("rule", "pattern", "matched", "total")},
        "stage": attempt.stage.name.lower(),
        "reasons": list(attempt.reasons),
    }
