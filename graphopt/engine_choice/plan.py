"""Which engine runs which nodes: a plan is data, and can be loaded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from graphopt.engine_choice.parts import Chain, GraphPart, split
from graphopt.errors import SerializationError, TargetError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable, Neighbourly, Tunable
from graphopt.targets.registry import get_engine

Prepare = Callable[[str, Graph], Graph]
"""Gives the form of a graph that the engine of a name runs best."""

MakeEngine = Callable[[str], Engine]
"""Makes the engine of a name."""


@dataclass(frozen=True)
class Share:
    """The nodes up to `end`, from where the share before ended, run in an engine with these settings."""

    end: int
    engine: str
    settings: str = ""


@dataclass(frozen=True)
class Plan:
    """The shares of a graph's nodes, in order."""

    shares: tuple[Share, ...]

    @property
    def name(self) -> str:
        """The engines, each once."""
        return " + ".join(dict.fromkeys(share.engine for share in self.shares))

    @property
    def settings(self) -> str:
        """The settings of the engine; of several shares, which nodes each has."""
        if len(self.shares) == 1:
            return self.shares[0].settings
        starts = [0, *(share.end for share in self.shares)]
        return ", ".join(
            f"{share.engine}{f' {share.settings}' if share.settings else ''} {start}…{share.end - 1}"
            for start, share in zip(starts, self.shares)
        )

    def to_json(self) -> list[list[Any]]:
        """Return the shares as JSON values."""
        return [[share.end, share.engine, share.settings] for share in self.shares]

    @staticmethod
    def from_json(given: Any) -> Plan:
        """Read what `to_json` gave.

        Raises:
            SerializationError: it is something else.

        >>> Plan.from_json([[3, "eager", ""], [7, "onnxruntime", "1 thread"]]).settings
        'eager 0…2, onnxruntime 1 thread 3…6'
        """
        try:
            shares = tuple(Share(int(end), str(engine), str(settings)) for end, engine, settings in given)
        except (TypeError, ValueError) as error:
            raise SerializationError(f"the plan of engines is damaged: {error}") from error
        if not shares or any(a.end >= b.end for a, b in pairwise(shares)):
            raise SerializationError("the plan of engines is damaged: its shares are not in order")
        return Plan(shares)


def settings_of(engine: Engine) -> str:
    """The settings of an engine, where they are not its own choice."""
    return engine.settings if isinstance(engine, Tunable) else ""


def beside_others(engine: Engine) -> Engine:
    """An engine as it should be where others run parts of the same model."""
    return engine.beside_others() if isinstance(engine, Neighbourly) else engine


def with_settings(engine: Engine, settings: str, graph: Graph) -> Engine:
    """Return the variant of an engine with these settings.

    Raises:
        TargetError: there is none for this graph.
    """
    variants = [engine, *(engine.variants(graph) if isinstance(engine, Tunable) else ())]
    variants += [beside_others(variant) for variant in variants]
    found = next((variant for variant in variants if settings_of(variant) == settings), None)
    if found is None:
        raise TargetError(f"engine {engine.name!r} has no settings {settings!r} for this graph")
    return found


def load_plan(
    plan: Plan, graph: Graph, make: MakeEngine = get_engine, prepare: Prepare | None = None
) -> tuple[Executable, Graph]:
    """Load a graph as a plan says; return it with the graph as it runs.

    Raises:
        TargetError: an engine that is missing, or the plan is of another graph. What the engines raise.
    """
    prepare = prepare or (lambda name, given: given)
    if plan.shares[-1].end != len(graph):
        raise TargetError(f"the plan of engines is for {plan.shares[-1].end} nodes, the graph has {len(graph)}")
    if len(plan.shares) == 1:
        (share,) = plan.shares
        prepared = prepare(share.engine, graph)
        return _load(share, prepared, make), prepared
    parts = split(graph, [share.end for share in plan.shares])
    return load_parts(plan, parts, graph, make, prepare), graph


def load_parts(plan: Plan, parts: Sequence[GraphPart], graph: Graph, make: MakeEngine, prepare: Prepare) -> Chain:
    """Load each part in its engine."""
    loaded = [
        _load(share, prepare(share.engine, part.graph), make) for share, part in zip(plan.shares, parts, strict=True)
    ]
    return Chain(graph, parts, loaded)


def _load(share: Share, graph: Graph, make: MakeEngine) -> Executable:
    engine = with_settings(make(share.engine), share.settings, graph)
    reason = engine.missing() or engine.unsupported(graph)
    if reason:
        raise TargetError(f"{share.engine}: {reason}")
    return engine.load(graph)
