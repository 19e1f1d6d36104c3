"""Choosing an engine: load each candidate, check its numbers, and time those that are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from graphopt.errors import GraphOptError, TargetError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable
from graphopt.targets.registry import get_engine
from graphopt.timing import interleaved_medians

ROUNDS = 5
SECONDS_PER_ROUND = 0.15

Check = Callable[[Sequence[Any]], "str | None"]
"""Given an engine's outputs, returns why they are wrong, or None."""


@dataclass
class EngineTrial:
    """What became of one candidate: its median latency in milliseconds, or the reason it was left out."""

    engine: str
    milliseconds: float | None = None
    load_seconds: float | None = None
    reason: str = ""
    chosen: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return asdict(self)


@dataclass
class EngineChoice:
    """The loaded winner and the table of trials."""

    engine: Engine
    executable: Executable
    trials: list[EngineTrial]


def choose_engine(
    graph: Graph, engines: Sequence[Engine], inputs: Sequence[Any] | None, check: Check | None
) -> EngineChoice:
    """Return the fastest engine whose outputs are right.

    inputs: flat sample inputs; without them the first engine that loads is taken. Rounds are interleaved, and each
    candidate counts with the median of its rounds' medians, so that a busy moment does not decide.

    Raises:
        TargetError: no candidate can run the graph; the message says why for each.
    """
    trials = [EngineTrial(engine.name) for engine in engines]
    loaded: dict[str, tuple[Engine, Executable]] = {}
    for engine, trial in zip(engines, trials):
        executable = _load(engine, graph, trial)
        if executable is not None and _is_right(executable, inputs, check, trial):
            loaded[engine.name] = engine, executable
            if inputs is None:
                break
    if not loaded:
        reasons = "; ".join(f"{t.engine}: {t.reason}" for t in trials)
        raise TargetError(f"no engine can run this model ({reasons})")
    if inputs is not None and len(loaded) > 1:
        _measure({name: executable for name, (_, executable) in loaded.items()}, inputs, trials)
    candidates = [t for t in trials if t.engine in loaded]
    best = min(candidates, key=lambda t: t.milliseconds if t.milliseconds is not None else 0.0)
    best.chosen = True
    engine, executable = loaded[best.engine]
    return EngineChoice(engine, executable, trials)


def _load(engine: Engine, graph: Graph, trial: EngineTrial) -> Executable | None:
    reason = engine.missing() or engine.unsupported(graph)
    if reason is not None:
        trial.reason = reason
        return None
    start = time.perf_counter()
    try:
        executable = engine.load(graph)
    except GraphOptError as error:
        trial.reason = str(error)
        return None
    trial.load_seconds = time.perf_counter() - start
    return executable


def _is_right(executable: Executable, inputs: Sequence[Any] | None, check: Check | None, trial: EngineTrial) -> bool:
    if inputs is None:
        return True
    start = time.perf_counter()
    try:
        outputs = executable.run(inputs)
    except Exception as error:  # an engine may fail in any way of its own; the next candidate is tried
        trial.reason = f"failed on the sample inputs: {error}"
        return False
    trial.load_seconds = (trial.load_seconds or 0.0) + time.perf_counter() - start
    wrong = check(outputs) if check is not None else None
    if wrong is not None:
        trial.reason = f"wrong numbers: {wrong}"
    return wrong is None


def _measure(executables: dict[str, Executable], inputs: Sequence[Any], trials: Sequence[EngineTrial]) -> None:
    calls = {name: partial(executable.run, inputs) for name, executable in executables.items()}
    medians = interleaved_medians(calls, ROUNDS, SECONDS_PER_ROUND)
    for trial in trials:
        if trial.engine in medians:
            trial.milliseconds = medians[trial.engine] * 1e3


def require_available(target: str, names: Sequence[str]) -> None:
    """Check that some engine of a target can run on this machine.

    Raises:
        TargetError: none can; the message says what each one lacks and what remedies it.
    """
    missing = {name: get_engine(name).missing() for name in names}
    if names and all(missing.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise TargetError(f"target {target!r} cannot run here ({reasons})")
