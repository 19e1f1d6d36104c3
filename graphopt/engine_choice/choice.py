"""Choosing an engine: load each candidate, check its numbers, and time those that are right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

from graphopt.analysis import CostModel, bind_sizes
from graphopt.engine_choice.kept import KeptChoice, is_kept
from graphopt.engine_choice.mixture import Mixture, Runner
from graphopt.engine_choice.plan import Plan, Prepare, Share, load_plan, settings_of
from graphopt.engine_choice.trials import EngineChoice, EngineTrial
from graphopt.errors import GraphOptError, TargetError
from graphopt.ir import Graph
from graphopt.targets import Engine, Executable, Tunable
from graphopt.targets.registry import get_engine
from graphopt.timing import interleaved_medians
from graphopt.validation import Check, copies

ROUNDS = 5
SECONDS_PER_ROUND = 0.15
CONTENDERS = 1.5
"""Other settings are tried of engines that take at most this many times what the fastest does."""
MIXABLE = 5.0
"""An engine that takes at most this many times what the fastest does may be the fastest for a part."""
CLOSE = 1.1
"""Candidates within this factor of the fastest are measured once more."""
WORTH = 0.97
"""Several engines in one model must take at most this share of the time of the best single one."""


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


Sample = tuple[Sequence[Any], Check | None]
"""Flat inputs, and the check of the outputs for them."""


def choose_engine(
    graph: Graph,
    engines: Sequence[Engine],
    samples: Callable[[], Sequence[Sample]] | Sequence[Sample] = (),
    prepare: Prepare | None = None,
    *,
    inputs: Sequence[Any] | None = None,
) -> EngineChoice:
    """Return the fastest engine whose outputs are right, and the graph as it runs it.

    Engines that come close are tried in other settings, too; then parts of the graph in different engines, where it has
    narrow places (`parts`), which are kept only if the whole gets faster by 3 %.

    samples: inputs to check each candidate on, the first of them for timing too; without any, the first engine that
        loads is taken. A function makes them only where they are needed. Rounds are interleaved, and each candidate
        counts with the median of its rounds' medians, so that a busy moment does not decide. The runs leave no trace: a
        graph that updates its buffers is loaded anew in the end.
    inputs: those of the first sample, if the choice may be taken from what was kept, and kept.

    Raises:
        TargetError: no candidate can run the graph; the message says why for each.
    """
    kept, why = None, ""
    if inputs is not None and len(engines) > 1 and is_kept(engines):
        kept = KeptChoice(graph, inputs, engines, callable(samples), prepare is not None)
        recalled = _recalled(kept, graph, engines, prepare)
        if isinstance(recalled, EngineChoice):
            return recalled
        why = recalled
    choice = _Choice(graph, engines, samples() if callable(samples) else samples, prepare or _as_it_is).run()
    if kept is not None:
        choice.notes += [why] if why else []
        kept.write(choice.plan, choice.trials)
    return choice


def _as_it_is(name: str, graph: Graph) -> Graph:
    return graph


def _recalled(kept: KeptChoice, graph: Graph, engines: Sequence[Engine], prepare: Prepare | None) -> EngineChoice | str:
    """Load what was chosen before; or say why that cannot be, "" if nothing was."""
    found = kept.read()
    if isinstance(found, str):
        return found
    plan, trials = found
    by_name = {engine.name: engine for engine in engines}
    start = time.perf_counter()
    try:
        executable, prepared = load_plan(plan, graph, by_name.__getitem__, prepare)
    except (GraphOptError, KeyError) as error:
        return f"the choice of engines that was kept in {kept.path} does not load ({error}); measured again"
    note = (
        f"engines: chosen before for this graph and machine, loaded in {time.perf_counter() - start:.2f} s; the times "
        f"and checks are from {kept.path}"
    )
    return EngineChoice(plan.name, executable, trials, prepared, plan, [note])


class _Choice:
    def __init__(self, graph: Graph, engines: Sequence[Engine], samples: Sequence[Sample], prepare: Prepare) -> None:
        self.graph = graph
        self.candidates = {engine.name: engine for engine in engines}
        self.samples = samples
        self.trials = {name: EngineTrial(name) for name in self.candidates}
        self.prepare = prepare
        self.sizes = bind_sizes(graph.inputs, samples[0][0]) if samples else {}
        self.graphs: dict[str, Graph] = {}
        self.loaded: dict[str, Executable] = {}

    def run(self) -> EngineChoice:
        failure: Exception | None = None
        for name in list(self.candidates):
            failure = self._try(name) or failure
            if self.loaded and not self.samples:
                break
        if not self.loaded:
            reasons = "; ".join(f"{t.engine}: {t.reason}" for t in self.trials.values())
            raise TargetError(f"no engine can run this model ({reasons})") from failure
        best = self._fastest()
        plan, graph, executable = self._single(best), self.graphs[best], self.loaded[best]
        mixed = self._mixture(best)
        if mixed is not None:
            best, graph = mixed.plan.name, self.graph
            plan, executable = mixed.plan, mixed.executable
        self.trials[best].chosen = True
        if self.samples and graph.mutations:
            executable = self.candidates[best].load(graph)
        return EngineChoice(plan.name, executable, list(self.trials.values()), graph, plan)

    def _single(self, title: str) -> Plan:
        engine = self.candidates[title]
        return Plan((Share(len(self.graph), engine.name, settings_of(engine)),))

    # Candidates

    def _try(self, title: str) -> Exception | None:
        """Load a candidate and check its numbers; return what it raised, if it did."""
        engine, trial = self.candidates[title], self.trials[title]
        graph = self.graphs[title] = self.prepare(engine.name, self.graph)
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
            self.loaded[title] = executable
            trial.planned_bytes = self._planned_bytes(graph)
        else:
            trial.reason = f"wrong numbers: {wrong}"
        return None

    def _planned_bytes(self, graph: Graph) -> int:
        cost = CostModel(self.sizes).graph(graph)
        return cost.constant_bytes + cost.peak_bytes

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

    def _variants(self, titles: Iterable[str]) -> list[str]:
        """Load engines in the other settings that they propose; return those that are right."""
        found = []
        for title in titles:
            engine = self.candidates[title]
            for variant in engine.variants(self.graphs[title]) if isinstance(engine, Tunable) else ():
                trial = EngineTrial(engine.name, settings=settings_of(variant))
                self.candidates[trial.title], self.trials[trial.title] = variant, trial
                self._try(trial.title)
                found += [trial.title] if trial.title in self.loaded else []
        return found

    # Times

    def _fastest(self) -> str:
        titles = list(self.loaded)
        if not self.samples or len(titles) == 1:
            return titles[0]
        self._time(titles)
        near = self._within(CONTENDERS)
        for title in set(titles) - set(near):
            del self.loaded[title]  # it holds the weights once more
        tried = self._variants(near)
        if tried:
            self._time(tried, near[0])
        close = self._within(CLOSE)
        if len(close) > 1:
            self._time(close, close[0])
        return self._within(1.0)[0]

    def _within(self, factor: float) -> list[str]:
        """The loaded candidates that take at most so many times what the fastest does, the fastest first."""
        times = {title: self._seconds(title) for title in self.loaded}
        least = min(times.values())
        return sorted((title for title in times if times[title] <= factor * least), key=times.__getitem__)

    def _seconds(self, title: str) -> float:
        milliseconds = self.trials[title].milliseconds
        return float("inf") if milliseconds is None else milliseconds / 1e3

    def _time(self, titles: Sequence[str], reference: str = "") -> None:
        """Time candidates in turn. With a reference, times are what they are beside it: if all get slower since it was
        timed, that is the machine."""
        names = dict.fromkeys([*([reference] if reference else []), *titles])
        calls = {title: self._call(self.loaded[title], self.samples[0][0]) for title in names}
        medians = interleaved_medians(calls, ROUNDS, SECONDS_PER_ROUND)
        scale = self._seconds(reference) / medians[reference] if reference else 1.0
        for title in names:
            self.trials[title].milliseconds = medians[title] * scale * 1e3

    def _call(self, executable: Executable, inputs: Sequence[Any]) -> Callable[[], Any]:
        if self.graph.mutations:
            return lambda: executable.run(copies(inputs))
        return lambda: executable.run(inputs)

    # Parts

    def _mixture(self, best: str) -> Mixture | None:
        """Several engines in one model, if that is right and faster than the best one alone."""
        if self.trials[best].milliseconds is None:
            return None  # nothing else ran, or nothing was timed
        most = MIXABLE * self._seconds(best)
        runners = [
            Runner(self.candidates[title], self._seconds(title), trial.load_seconds or 0.0)
            for title, trial in self.trials.items()
            if self._seconds(title) <= most
        ]
        runners.sort(key=lambda runner: runner.seconds)
        trial = EngineTrial("several")
        mixture: Mixture | None = None
        try:
            mixture = Mixture.find(self.graph, runners, self.samples[0][0], self.sizes, self.prepare)
            if mixture is None:
                return None
            trial.engine, trial.settings = mixture.plan.name, mixture.plan.settings
            trial.load_seconds, trial.planned_bytes = mixture.load_seconds, self._planned_bytes(self.graph)
            wrong = self._wrong(mixture.executable)
        except Exception as error:  # what runs as a whole need not load or run in parts
            trial.reason = f"{type(error).__name__}: {error}"
        else:
            trial.reason = "" if wrong is None else f"wrong numbers: {wrong}"
        self.trials[trial.engine] = trial
        if trial.reason or mixture is None:
            return None
        self.loaded[trial.engine] = mixture.executable
        self._time([trial.engine], best)
        return mixture if self._seconds(trial.engine) < WORTH * self._seconds(best) else None


def require_available(target: str, names: Sequence[str]) -> None:
    """Check that some engine of a target can run on this machine.

    Raises:
        TargetError: none can; the message says what each one lacks and what remedies it.
    """
    missing = {name: get_engine(name).missing() for name in names}
    if names and all(missing.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise TargetError(f"target {target!r} cannot run here ({reasons})")
