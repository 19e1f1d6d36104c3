"""`graphopt opt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import GraphOptError
from graphopt.passmanager import Outcome, PassContext, PassManager, read_reproducer
from graphopt.passmanager.reproducer import Reproducer
from graphopt.pipelines import resolve_passes
from graphopt.serialization import load_graph
from graphopt.targets import get_target


def run_reproducer(file: Path, passes: str | None, target: str, validate: bool, instruments: Sequence[Any]) -> Outcome:
    """Run the pipeline of a reproducer, or `passes`, over a graph in text form or in the saved form.

    Raises:
        GraphOptError: no pipeline is named; whatever reading the file or running a pass raises.
    """
    recorded = Reproducer(load_graph(file)[0], "", []) if file.suffix == ".gopt" else read_reproducer(file)
    text = passes or recorded.pipeline
    if not text:
        raise GraphOptError(f"{file} names no pipeline; give one with --passes")
    chosen = get_target(target)
    manager = PassManager(
        resolve_passes(text, chosen.name, chosen.trainable),
        validate="each" if validate else False,
        on_failure="raise",
        instruments=instruments,
    )
    context = PassContext(target=chosen.name, trainable=chosen.trainable, samples=recorded.samples)
    return manager.run(recorded.graph, context)
