"""Choosing an engine: load each candidate, check its numbers, and time those that are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

from graphopt.errors import GraphOptError, TargetError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable
from graphopt.targets.registry import get_engine
from graphopt.timing import interleaved_medians
from graphopt.validation import Check, copies

ROUNDS = 5
SECONDS_PER_ROUND = 0.15


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
    graph: Graph


class AtFirstRun:
    """An executable that is loaded at its first run.

    choose: loads it.
    """

    def __init__(self, choose: Callable[[], EngineChoice]) -> None:
        self._choose = choose
        self._loaded: Executable | None = None
        self._lock = Lock()

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run on flat inputs in graph order; return the flat outputs.

        Raises:
            TargetError: the engine cannot run the graph; the message says why.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._choose().executable
        return self._loaded.run(inputs)


Prepare = Callable[[str, Graph], Graph]
"""Gives the form of a graph that the engine of a name runs best."""

Sample = tuple[Sequence[Any], Check | None]
"""Flat inputs, and the check of the outputs for them."""


def choose_engine(
    graph: Graph, engines: Sequence[Engine], samples: Sequence[Sample] = (), prepare: Prepare | None = None
) -> EngineChoice:
    """Return the fastest engine whose outputs are right, and the graph as it runs it.

    samples: inputs to check each candidate on, the first of them for timing too; without any, the first engine that
        loads is taken. Rounds are interleaved, and each candidate counts with the median of its rounds' medians, so
        that a busy moment does not decide. The runs leave no trace: a graph that updates its buffers is loaded anew
        in the end.

    Raises:
        TargetError: no candidate can run the graph; the message says why for each.
    """
    return _Choice(graph, engines, samples, prepare or (lambda name, given: given)).run()


class _Choice:
    def __init__(self, graph: Graph, engines: Sequence[Engine], samples: Sequence[Sample], prepare: Prepare) -> None:
        self.graph = graph
        self.engines = {engine.name: engine for engine in engines}
        self.samples = samples
        self.trials = {name: EngineTrial(name) for name in self.engines}
        self.prepare = prepare
        self.graphs: dict[str, Graph] = {}
        self.loaded: dict[str, Executable] = {}

    def run(self) -> EngineChoice:
        failure: Exception | None = None
        for name in self.engines:
            failure = self._try(name) or failure
            if self.loaded and not self.samples:
                break
        if not self.loaded:
            reasons = "; ".join(f"{t.engine}: {t.reason}" for t in self.trials.values())
            raise TargetError(f"no engine can run this model ({reasons})") from failure
        best = self._fastest()
        best.chosen = True
        engine, executable = self.engines[best.engine], self.loaded[best.engine]
        graph = self.graphs[best.engine]
        if self.samples and graph.mutations:
            executable = engine.load(graph)
        return EngineChoice(engine, executable, list(self.trials.values()), graph)

    def _try(self, name: str) -> Exception | None:
        """Load a candidate and check its numbers; return what it raised, if it did."""
        engine, trial = self.engines[name], self.trials[name]
        graph = self.graphs[name] = self.prepare(name, self.graph)
        trial.reason = engine.missing() or engine.unsupported(graph) or ""
        if trial.reason:
            return None
        start = time.perf_counter()
        try:
            executable = engine.load(graph)
            wrong = self._wrong(executable)
        except Exception as error:  # an engine may fail in any way of its own; the next candidate is tried
            trial.reason = f"{error}" if isinstance(error, GraphOptError) else f"{type(error).__name__}: {error}"
            return error
        trial.load_seconds = time.perf_counter() - start
        if wrong is None:
            self.loaded[name] = executable
        else:
            trial.reason = f"wrong numbers: {wrong}"
        return None

    def _wrong(self, executable: Executable) -> str | None:
        for inputs, check in self.samples if not self._is_stateful else self.samples[:1]:
            outputs = executable.run(copies(inputs) if self.graph.mutations else inputs)
            wrong = check(outputs) if check is not None else None
            if wrong is not None:
                return wrong
        return None

    @property
    def _is_stateful(self) -> bool:
        """True if a run depends on the runs before."""
        return any(name in self.graph.constants for name in self.graph.mutations)

    def _fastest(self) -> EngineTrial:
        trials = [self.trials[name] for name in self.loaded]
        if self.samples and len(trials) > 1:
            calls = {name: self._call(executable, self.samples[0][0]) for name, executable in self.loaded.items()}
            medians = interleaved_medians(calls, ROUNDS, SECONDS_PER_ROUND)
            for trial in trials:
                trial.milliseconds = medians[trial.engine] * 1e3
        return min(trials, key=lambda t: t.milliseconds if t.milliseconds is not None else 0.0)

    def _call(self, executable: Executable, inputs: Sequence[Any]) -> Callable[[], Any]:
        if self.graph.mutations:
            return lambda: executable.run(copies(inputs))
        return lambda: executable.run(inputs)


def require_available(target: str, names: Sequence[str]) -> None:
    """Check that some engine of a target can run on this machine.

    Raises:
        TargetError: none can; the message says what each one lacks and what remedies it.
    """
    missing = {name: get_engine(name).missing() for name in names}
    if names and all(missing.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise TargetError(f"target {target!r} cannot run here ({reasons})")
