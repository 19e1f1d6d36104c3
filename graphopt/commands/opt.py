"""`graphopt opt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.api import trace
from graphopt.commands.judges import Judge
from graphopt.errors import GraphOptError, ValidationError
from graphopt.model_source import resolve_model
from graphopt.onnx_models import SUFFIX
from graphopt.passmanager import Outcome, PassContext, PassManager, read_reproducer
from graphopt.passmanager.made_up import make_inputs
from graphopt.passmanager.reproducer import Reproducer
from graphopt.pipelines import resolve_passes
from graphopt.report import CompileReport
from graphopt.serialization import load_graph
from graphopt.targets import get_target


def opt_report(outcome: Outcome) -> CompileReport:
    """The report of a run of passes alone, to be saved as a page."""
    return CompileReport(outcome.report.target, outcome.report, model=outcome.graph.name, after=outcome.graph)


def run_reproducer(
    file: Path,
    passes: str | None,
    target: str | None,
    validate: bool,
    instruments: Sequence[Any],
    judge: Judge = Judge(),  # noqa: B008 (it is frozen)
    values: Sequence[str] = (),
) -> Outcome:
    """Run the pipeline of a reproducer, or `passes`, over a graph in text form or in the saved form, or an ONNX file.

    target: by default what the file says. values: inputs of an ONNX file.

    Raises:
        GraphOptError: no pipeline is named; whatever reading the file or running a pass raises.
        ValidationError: the judge finds fault with the result.
    """
    recorded = _recorded(file, values)
    text = passes or recorded.pipeline
    if not text and not judge.given:
        raise GraphOptError(f"{file} names no pipeline; give one with --passes")
    chosen = get_target(target or recorded.target or "onnxruntime")
    trainable = recorded.trainable or chosen.trainable
    manager = PassManager(
        resolve_passes(text or "none", chosen.name, trainable),
        validate="each" if validate else False,
        on_failure="raise",
        budget=recorded.budget if validate else None,
        instruments=instruments,
    )
    samples = recorded.samples
    context = PassContext(
        target=chosen.name,
        trainable=trainable,
        samples=samples,
        capabilities=chosen.capabilities,
        properties=set(recorded.properties),
    )
    outcome = manager.run(recorded.graph, context)
    if judge.given:
        complaint = judge.complaints(recorded.graph, samples[0] if samples else None)(outcome.graph)
        if complaint is not None:
            raise ValidationError(complaint)
    return outcome


def _recorded(file: Path, values: Sequence[str]) -> Reproducer:
    if file.suffix == ".gopt":
        return Reproducer(load_graph(file)[0], "", [])
    if file.suffix == SUFFIX:
        source = resolve_model(str(file), values)
        graph = trace(source.path, (), source.kwargs)
        made = make_inputs(graph, source.kwargs)
        return Reproducer(graph, "", [] if made is None else [made])
    return read_reproducer(file)
