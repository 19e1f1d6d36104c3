"""Choices that are kept: a file for each graph, with the machine and the versions that it holds for.

The name is a hash of the graph's text (which has the hashes of its weights), of the types and strides of the inputs,
of the candidates, and of whether numbers were checked. What was made by other versions, or on another machine, is
measured again, and so is what is damaged; the report says why.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from graphopt.engine_choice.plan import Plan
from graphopt.engine_choice.trials import EngineTrial
from graphopt.errors import SerializationError
from graphopt.ir import Graph
from graphopt.ir.printer import print_graph
from graphopt.targets import Engine, Tunable
from graphopt.targets.machine_cache import cache_folder, recall, write

SWITCH = "GRAPHOPT_ENGINE_CACHE"
"""The environment variable that turns kept choices off, as `no`."""

FORM = 1


class KeptChoice:
    """The file of one graph, these inputs and these candidates.

    facts: whatever else the choice depends on.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Any], engines: Sequence[Engine], *facts: bool) -> None:
        names = [engine.name for engine in engines]
        parts = [str(FORM), *names, *map(str, facts), *map(_layout, inputs), print_graph(graph, locations=False)]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
        self.name = f"engines-{torch.get_num_threads()}-threads-{digest}"
        self.path = cache_folder() / f"{self.name}.json"
        self._versions = versions(engines)

    def read(self) -> tuple[Plan, list[EngineTrial]] | str:
        """Return what was chosen and the table, or why that cannot be used; "" if there is nothing."""
        found, why = recall(self.name)
        if found is None:
            return why and f"the choice of engines that was kept in {self.path} {why}; measured again"
        if found.get("versions") != self._versions:
            changed = _changed(found.get("versions"), self._versions)
            return f"the choice of engines that was kept in {self.path} was made with {changed}; measured again"
        try:
            return Plan.from_json(found["plan"]), [EngineTrial(**row) for row in found["trials"]]
        except (SerializationError, KeyError, TypeError) as error:
            return f"the choice of engines that was kept in {self.path} is damaged ({error}); measured again"

    def write(self, plan: Plan, trials: Sequence[EngineTrial]) -> None:
        """Keep a choice."""
        rows = [asdict(trial) for trial in trials]
        write(self.path, {"versions": self._versions, "plan": plan.to_json(), "trials": rows})


def is_kept(engines: Sequence[Engine]) -> bool:
    """Whether choices among these engines are kept: they say what their times depend on, and nobody said no."""
    return os.environ.get(SWITCH, "").lower() not in ("no", "off", "0") and all(isinstance(e, Tunable) for e in engines)


def versions(engines: Sequence[Engine]) -> dict[str, str]:
    """The versions that a choice depends on; "" of a package that is not installed."""
    from graphopt import __version__

    names = sorted({name for engine in engines if isinstance(engine, Tunable) for name in engine.packages})
    return {"graphopt": __version__, **{name: _version(name) for name in names}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _changed(then: Any, now: dict[str, str]) -> str:
    if not isinstance(then, dict):
        return "unknown versions"
    names = [name for name in now if then.get(name) != now[name]]
    return ", ".join(
        f"{name} {then.get(name) or '(not installed)'} (now {now[name] or 'not installed'})" for name in names
    )


def _layout(given: Any) -> str:
    if isinstance(given, torch.Tensor):
        return f"{given.dtype} {tuple(given.shape)} {given.stride()}"
    return repr(given)
