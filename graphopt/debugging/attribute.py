"""Attributing an error: to the passes, by their outputs one after the other, and to nodes, by their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.debugging.attribution import EngineError, ErrorAttribution
from graphopt.debugging.deviation import Deviation, Tolerance, deviation
from graphopt.debugging.engines import parse_engines, run_engine, tappable
from graphopt.debugging.nodes import NodeErrors, random_values
from graphopt.debugging.reference import Reference
from graphopt.debugging.runs import Run, observed_run
from graphopt.debugging.values import observe
from graphopt.debugging.waterfall import StepOutputs, waterfall
from graphopt.errors import GraphOptError
from graphopt.ir import Graph
from graphopt.passmanager import print_pipeline
from graphopt.passmanager.compare import flat
from graphopt.program import FX
from graphopt.targets import Engine
from graphopt.targets.registry import get_engine


def attribute_error(
    model: Any,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    engines: str | Mapping[str, Engine] | None = None,
    tolerance: float | None = None,
    **options: Any,
) -> ErrorAttribution:
    """Say which pass, which node and which engine the error of a compiled model comes from.

    model: what `graphopt.compile` takes, compiled here with `options` (`target`, `passes`, `validate`, …); a `Graph`,
        whose pipeline is run by itself; or a `CompiledModel` that was compiled with `instruments=[Provenance()]`.
    args, kwargs: the inputs to measure on.
    engines: engines to run the final graph in, as text such as `"eager,onnxruntime,onnxruntime{optimization=off}"` or
        by name; by default the one that the model was compiled for.
    tolerance: the largest error of a value relative to its scale; by default what rounding may do (see `Tolerance`).

    The reference is the original graph in float64. The final graph runs twice in its own precision: as it is, for the
    accumulated errors, and with each node reading the reference's values, for its local error. Values are aligned by
    the provenance of the rewrites, so a value that no rule replaced or made is compared with itself.

    Raises:
        GraphOptError: a compiled model whose history was not kept; whatever compiling or the runs raise.

    >>> import torch
    >>> from graphopt.ops import parse
    >>> from graphopt.passmanager import rewrite
    >>> from graphopt.rewrite import Contract, aten, var
    >>> @rewrite(aten.relu(var("x")), contract=Contract.LOSSY)
    ... def drop_relu(x):
    ...     return x
    >>> graph = parse('''input %x: f32[4]
    ... %a = aten.neg(%x) @ "model.py":3
    ... %b = aten.relu(%a) @ "model.py":4
    ... %c = aten.exp(%b) @ "model.py":5
    ... return %c''')
    >>> found = attribute_error(graph, [torch.tensor([1.0, -1.0, 2.0, -2.0])], passes=[drop_relu])
    >>> found.worst_step.name, found.first.original
    ('drop-relu', '%b = aten.relu(%a)')
    """
    run = observed_run(model, args, kwargs, **options)
    chosen = _engines(run, engines)
    reference = Reference(run.original, run.inputs)
    notes = list(reference.notes)
    if random_values(run.original):
        notes.append("the model draws random numbers; engines draw their own, so what depends on them is not judged")
    final = flat(observe(run.final, run.inputs, _ignore))
    rows = NodeErrors(run, reference, Tolerance(tolerance))
    found: list[StepOutputs] = []
    attempts: list[EngineError] = []
    for name, engine in chosen.items():
        attempt, steps = _engine_error(name, engine, run, reference, final, rows)
        attempts.append(attempt)
        found += steps
    return ErrorAttribution(
        reference=reference.name,
        outputs=output_names(run.original),
        steps=waterfall(reference.outputs, [*_pass_steps(run), *found[:1]]),
        nodes=rows.rows(),
        engines=attempts,
        notes=notes,
    )


def output_names(graph: Graph) -> tuple[str, ...]:
    """A name for each flat output: its value's, and what it updates."""
    names = [v.name or f"output_{i}" for i, v in enumerate(graph.outputs)]
    return (*names, *(f"{target} (updated)" for target in graph.mutations))


def _ignore(*event: Any) -> None:
    return None


def _engines(run: Run, given: str | Mapping[str, Engine] | None) -> dict[str, Engine]:
    if isinstance(given, str):
        return parse_engines(given)
    if given is not None:
        return dict(given)
    if run.program is None:
        return {}
    name = run.program.engine_name
    return {name: get_engine("eager" if name == FX else name)}  # an FX module computes what eager mode does


def _pass_steps(run: Run) -> list[StepOutputs]:
    steps = [StepOutputs("original", "original", "", flat(observe(run.original, run.inputs, _ignore)))]
    for step in run.provenance.steps:
        if step.pass_ is None:  # a mere copy: no pass changed anything
            continue
        outputs = flat(observe(step.after, run.inputs, _ignore))
        steps.append(StepOutputs("pass", step.pass_.name, print_pipeline(step.pass_), outputs))
    return steps


def _engine_error(
    name: str,
    engine: Engine,
    run: Run,
    reference: Reference,
    final: Sequence[Any],
    rows: NodeErrors,
) -> tuple[EngineError, list[StepOutputs]]:
    """The errors of an engine, and its outputs as a step (none if it cannot run)."""
    try:
        outputs = run_engine(engine, run.final, run.inputs)
    except GraphOptError as refusal:
        return EngineError(name, ok=False, reason=str(refusal)), []
    first: int | None = None
    tapped: tuple[Deviation, ...] = ()
    reason = ""
    try:
        values = tappable(run.final)
        seen = run_engine(engine, run.final, run.inputs, values)
    except GraphOptError as refusal:
        reason = f"it runs, but not with its inner values in sight: {refusal}"
    else:
        first = rows.engine(name, dict(zip(values, seen[len(outputs) :])))
        tapped = tuple(map(deviation, seen, outputs))
    deviations = tuple(map(deviation, outputs, reference.outputs))
    drawn = random_values(run.final)
    ok = any(value in drawn for value in run.final.returned) or all(
        rows.tolerance.holds(found, own, unit)
        for found, own, unit in zip(deviations, reference.own_outputs, reference.units)
    )
    against = tuple(map(deviation, outputs, final))
    found = EngineError(name, deviations, against, ok, first, tapped, reason)
    return found, [StepOutputs("engine", name, "", outputs)]
