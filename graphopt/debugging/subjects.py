"""The two sides of a comparison: a graph, what made it, and what runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.api import compile, trace
from graphopt.calling import CallingConvention
from graphopt.compiled import CompiledModel
from graphopt.debugging.engines import parse_engines, run_engine, tappable
from graphopt.debugging.runs import kept_history
from graphopt.debugging.values import record
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, Value
from graphopt.passmanager import Provenance
from graphopt.passmanager.compare import flat
from graphopt.program import FX
from graphopt.serialization import load_graph
from graphopt.targets import Engine
from graphopt.targets.registry import get_engine

INTERPRETER = "interpreter"


@dataclass
class Subject:
    """A graph to compare. history: of the run that made it, where it was kept. engine: None for the interpreter."""

    label: str
    graph: Graph
    history: Provenance | None = None
    engine: Engine | None = None

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The graph's inputs in order.

        Raises:
            InputError: the arguments don't fit.
        """
        return CallingConvention(self.graph).flatten(tuple(args), dict(kwargs))

    def run(self, inputs: Sequence[Any]) -> tuple[dict[Value, Any], list[Any]]:
        """Return the values of the graph, and all that it returns, flat.

        Raises:
            GraphOptError: the graph does not run.
        """
        if self.engine is None:
            values, returned = record(self.graph, inputs)
            return values, flat(returned)
        # What is tapped is not fused, so outputs are those of a run without.
        outputs = run_engine(self.engine, self.graph, inputs)
        tapped = tappable(self.graph)
        found = run_engine(self.engine, self.graph, inputs, tapped)
        return dict(zip(tapped, found[len(outputs) :])), outputs


def subject(
    model: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    name: str = "",
    target: str | None = None,
    engine: str | None = None,
    **options: Any,
) -> Subject:
    """Make a side of a comparison.

    target: compile the model for it first, with `options`; else it is only traced (a `Graph` is taken as it is).
    engine: what runs the graph, as text (`"interpreter"` for the reference semantics); by default the engine that the
        model was compiled for, and the interpreter for what was not compiled.

    Raises:
        GraphOptError: whatever tracing or compiling raises.
    """
    title = name or _title(model)
    if target is not None:
        if isinstance(model, Graph | CompiledModel):
            raise GraphOptError(f"{title} is a {type(model).__name__}; only an original model is compiled for a target")
        model = compile(model, args, kwargs, target=target, instruments=[Provenance()], **options)
        title = f"{title} for {target}"
    made = _of(model, args, kwargs, title)
    if engine == INTERPRETER:
        made.engine = None
    elif engine is not None:
        made.engine = _single(engine)
    runs = INTERPRETER if made.engine is None else engine or made.engine.name
    made.label = f"{title} ({runs})"
    return made


def _of(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any], title: str) -> Subject:
    if isinstance(model, Graph):
        return Subject(title, model)
    if isinstance(model, CompiledModel):
        history = kept_history(model)
        known = history.graphs if history is not None else []
        graph = known[-1] if known else model.graph
        return Subject(title, graph, history, get_engine("eager" if model.engine == FX else model.engine))
    if isinstance(model, str | os.PathLike) and os.fspath(model).endswith(".gopt"):
        return Subject(title, load_graph(model)[0])
    return Subject(title, trace(model, args, kwargs))


def _single(text: str) -> Engine:
    found = parse_engines(text)
    if len(found) != 1:
        raise GraphOptError(f"a side of a comparison runs in one engine, got {text!r}")
    return next(iter(found.values()))


def _title(model: Any) -> str:
    if isinstance(model, Graph):
        return f"graph {model.name}"
    if isinstance(model, CompiledModel):
        return f"compiled for {model._options.target.name}"
    return os.fspath(model) if isinstance(model, str | os.PathLike) else type(model).__name__
