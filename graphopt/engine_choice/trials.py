"""What became of each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from graphopt.engine_choice.plan import Plan
from graphopt.ir import Graph
from graphopt.targets import Executable


@dataclass
class EngineTrial:
    """What became of one candidate: its median latency in milliseconds, or the reason it was left out.

    settings: of the engine, where they are not its own choice: `channels_last`, `1 thread`; of several engines, which
    nodes each one runs. planned_bytes: weights, and what lives at most beside them by the order of the nodes.
    """

    engine: str
    milliseconds: float | None = None
    load_seconds: float | None = None
    reason: str = ""
    chosen: bool = False
    settings: str = ""
    planned_bytes: int | None = None

    @property
    def title(self) -> str:
        """The engine, and its settings in brackets."""
        return f"{self.engine} ({self.settings})" if self.settings else self.engine

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return asdict(self)


@dataclass
class EngineChoice:
    """The loaded winner, how to load it again, the table of trials, and what else there is to say.

    graph: as the winner runs it.
    """

    name: str
    executable: Executable
    trials: Sequence[EngineTrial]
    graph: Graph
    plan: Plan
    notes: list[str] = field(default_factory=list)
