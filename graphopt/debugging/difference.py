"""What sets two models apart, in structure and in numbers: the data of a difference. `diff` makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from graphopt.debugging.deviation import Deviation


@dataclass(frozen=True, slots=True)
class NodeDifference:
    """A node that one of two graphs lacks, or that differs in them.

    kind: "removed" (only in the first), "added" (only in the second) or "changed". a, b: the node's text in each.
    what: how it changed. location, scope: the model's source line and module.
    """

    kind: str
    a: str
    b: str
    what: str
    location: str
    scope: str

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        return {name: getattr(self, name) for name in ("kind", "a", "b", "what", "location", "scope")}


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """A value of the first model beside the value of the second that corresponds to it.

    a, b: as text, the nodes that make them. deviation: of b from a. own: the larger of their own
    rounding errors, where they are known.
    ok: whether the deviation is within the tolerance.
    """

    a: str
    b: str
    location: str
    scope: str
    deviation: Deviation
    own: Deviation | None
    ok: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        return {
            **{name: getattr(self, name) for name in ("a", "b", "location", "scope", "ok")},
            "deviation": self.deviation.to_dict(),
            "own": None if self.own is None else self.own.to_dict(),
        }


@dataclass
class Difference:
    """What sets two models apart. `print` it, or take `to_dict()`, `to_json()`, `rich()`.

    a, b: what they are called. same: how many nodes they have in common. nodes: those that differ, in order.
    ops: how often each has an operator, where that differs. tensors: stored tensors of the same name that differ.
    values: corresponding values, in the order of the second model. outputs: of the models, one after the other.
    """

    a: str
    b: str
    same: int = 0
    nodes: list[NodeDifference] = field(default_factory=list)
    ops: dict[str, tuple[int, int]] = field(default_factory=dict)
    tensors: list[ValueDifference] = field(default_factory=list)
    values: list[ValueDifference] = field(default_factory=list)
    outputs: list[ValueDifference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> ValueDifference | None:
        """The first value where the models diverge: the first that is out of tolerance."""
        return next((value for value in self.values if not value.ok), None)

    @property
    def is_same_structure(self) -> bool:
        """True if the graphs consist of the same nodes."""
        return not self.nodes

    @property
    def agrees(self) -> bool:
        """True if every output is within the tolerance."""
        return all(output.ok for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        first = self.first
        parts = ("nodes", "tensors", "values", "outputs")
        return {
            **{name: getattr(self, name) for name in ("a", "b", "same", "notes")},
            "ops": {name: list(counts) for name, counts in self.ops.items()},
            "agrees": self.agrees,
            "first": None if first is None else self.values.index(first),
            **{name: [item.to_dict() for item in getattr(self, name)] for name in parts},
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return the difference as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        from graphopt.debugging.difference_text import difference_text

        return difference_text(self)

    def rich(self) -> Any:
        """Return the difference as a renderable of the library rich."""
        from graphopt.debugging.difference_text import difference_view

        return difference_view(self)
