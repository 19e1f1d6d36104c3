"""The report of a compilation: the passes' part, the engines' part, and the times of each stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.engine_choice import EngineTrial
from graphopt.passmanager import Report


@dataclass
class CompileReport:
    """What `graphopt.compile` did. `print` it, or take `to_dict()` and `to_json()`.

    passes: what each pass did (`graphopt.passmanager.Report`). engines: the candidates that were tried, with medians
    in milliseconds. seconds: the time of each stage. compiled: of a model that was loaded from a file, the report
    (as `to_dict` gives it) of the compilation that made it.
    """

    target: str
    passes: Report
    engines: Sequence[EngineTrial] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    compiled: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "target": self.target,
            "engines": [trial.to_dict() for trial in self.engines],
            "seconds": self.seconds,
            "passes": self.passes.to_dict(),
            **({} if self.compiled is None else {"compiled": self.compiled}),
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        lines = [str(self.passes).rstrip()]
        if self.engines:
            lines += ["", *engine_lines(self.engines)]
        if self.seconds:
            stages = ", ".join(f"{name} {value:.2f} s" for name, value in self.seconds.items())
            lines += ["", f"time: {stages}"]
        return "\n".join(lines)


def engine_lines(trials: Sequence[EngineTrial]) -> list[str]:
    """Return a line for each engine that was tried."""
    width = max(len(trial.engine) for trial in trials)
    lines = ["engines"]
    for trial in trials:
        shown = trial.reason or ("loaded" if trial.milliseconds is None else f"{trial.milliseconds:.3f} ms")
        lines.append(f"  {trial.engine:<{width}}  {shown}{'  (chosen)' if trial.chosen else ''}")
    return lines
