"""Which pass, and which node, an error comes from: the data of an attribution. `attribute_error` makes it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from graphopt.debugging.deviation import Deviation, number


@dataclass(frozen=True, slots=True)
class OutputStep:
    """What a step did to one output y. With r the reference, e = y − r and d = y − (y before the step):

    own: d, as the step changed the output, in terms of the output before. accumulated: e, against the reference.
    change: by how much the step raised ‖e‖/‖r‖. share: ⟨d, e_last⟩ / ‖e_last‖², the step's part of the final error.

    Since e_last = Σ d, shares add up to 1, and changes to the final `accumulated.rms`.
    """

    own: Deviation
    accumulated: Deviation
    change: float
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON values."""
        return {
            "own": self.own.to_dict(),
            "accumulated": self.accumulated.to_dict(),
            "change": number(self.change),
            "share": number(self.share),
        }


@dataclass(frozen=True, slots=True)
class ErrorStep:
    """A bar of the waterfall.

    kind: "original" (the rounding of the original graph itself), "pass", or "engine" (what the engine computes with the
    final graph, against the interpreter). text: the pass with its options. outputs: one entry an output.
    """

    number: int
    kind: str
    name: str
    text: str
    outputs: tuple[OutputStep, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON values."""
        return {
            **{name: getattr(self, name) for name in ("number", "kind", "name", "text")},
            "outputs": [output.to_dict() for output in self.outputs],
        }


@dataclass(frozen=True, slots=True)
class NodeError:
    """The error of one value of the final graph, against the value of the original graph that it stands for.

    name, node, op: of the final value and of the node that makes it ("" for a stored tensor).
    original: the node of the original graph, or the input or tensor, that it stands for.
    location: the model's source line. scope: the module's path. rules: the rules that made the node, oldest first.
    local: the node run on the reference's inputs, so its own error; None where that cannot be told.
    accumulated: the whole graph run. own: the original graph's own rounding error at this value.
    engines: the accumulated error in each engine, by its name. local_ok, ok: whether `local`, `accumulated` are within
    the tolerance. index: which result of the node.
    """

    name: str
    node: str
    op: str
    index: int
    original: str
    location: str
    scope: str
    rules: tuple[str, ...]
    local: Deviation | None
    accumulated: Deviation
    own: Deviation | None
    local_ok: bool
    ok: bool
    engines: dict[str, Deviation] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON values."""
        plain = ("name", "node", "op", "index", "original", "location", "scope", "rules", "local_ok", "ok")
        return {
            **{name: getattr(self, name) for name in plain},
            **{name: _optional(getattr(self, name)) for name in ("local", "accumulated", "own")},
            "engines": {name: found.to_dict() for name, found in self.engines.items()},
        }


@dataclass(frozen=True, slots=True)
class EngineError:
    """What an engine makes of the final graph.

    outputs: against the reference, one an output. against_interpreter: against the interpreter on the same graph.
    first: the first value out of tolerance (an index into `ErrorAttribution.nodes`), or None.
    tapped: how far the outputs move when intermediate values are made outputs, which keeps an engine from fusing
    across them; the errors of nodes are those of that run. reason: why the engine could not run, or not so, or "".
    """

    engine: str
    outputs: tuple[Deviation, ...] = ()
    against_interpreter: tuple[Deviation, ...] = ()
    ok: bool = True
    first: int | None = None
    tapped: tuple[Deviation, ...] = ()
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the errors as JSON values."""
        return {
            **{name: getattr(self, name) for name in ("engine", "ok", "first", "reason")},
            **{
                name: [found.to_dict() for found in getattr(self, name)]
                for name in ("outputs", "against_interpreter", "tapped")
            },
        }


@dataclass
class ErrorAttribution:
    """Where the error of a compiled model comes from. `print` it, or take `to_dict()`, `to_json()`, `rich()`.

    reference: what errors are measured against. outputs: names of the outputs, what the graph updates included.
    steps: the waterfall. nodes: a row for each value of the final graph that stands for one of the original, in order.
    engines: what each engine makes of the final graph. notes: what a person should know.
    """

    reference: str
    outputs: tuple[str, ...]
    steps: list[ErrorStep]
    nodes: list[NodeError]
    engines: list[EngineError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def first(self) -> NodeError | None:
        """The first value whose accumulated error is out of tolerance."""
        return next((node for node in self.nodes if not node.ok), None)

    @property
    def guilty(self) -> list[NodeError]:
        """The values whose local error is out of tolerance, largest first: there the error is made."""
        found = [node for node in self.nodes if not node.local_ok and node.local is not None]
        return sorted(found, key=lambda n: -n.local.rms if n.local is not None else 0.0)

    @property
    def worst_step(self) -> ErrorStep | None:
        """The pass or engine that has the largest share in the final error of any output; None if there is no error."""
        later = [step for step in self.steps if step.kind != "original" and any(o.share for o in step.outputs)]
        return max(later, key=lambda step: max(o.share for o in step.outputs), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the attribution as JSON values."""
        first = self.first
        return {
            "reference": self.reference,
            "outputs": list(self.outputs),
            "first": None if first is None else self.nodes.index(first),
            "notes": self.notes,
            **{name: [_dict(item) for item in getattr(self, name)] for name in ("steps", "nodes", "engines")},
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return the attribution as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        from graphopt.debugging.attribution_text import attribution_text

        return attribution_text(self)

    def rich(self) -> Any:
        """Return the attribution as a renderable of the library rich."""
        from graphopt.debugging.attribution_text import attribution_view

        return attribution_view(self)


def _dict(item: ErrorStep | NodeError | EngineError) -> dict[str, Any]:
    return item.to_dict()


def _optional(found: Deviation | None) -> dict[str, Any] | None:
    return None if found is None else found.to_dict()
