"""`graphopt opt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.options import (
    ChangesOption,
    PipelineOption,
    ReportOption,
    TargetOption,
    ValidateOption,
    make_instruments,
)
from graphopt.cli.program import app


@app.command()
def opt(
    file: Annotated[
        Path, typer.Argument(help="A reproducer that a failure wrote, a graph in text form, or a `.gopt`.")
    ],
    passes: PipelineOption = None,
    target: TargetOption = "onnxruntime",
    validate: ValidateOption = True,
    print_changes: ChangesOption = False,
    report: ReportOption = None,
) -> None:
    """Run passes over a graph and print the result. This is how a reproducer is run again.

    Example: `graphopt opt graph.txt --passes canonicalize,dead-code`
    """
    from graphopt.commands.files import write_text
    from graphopt.commands.opt import run_reproducer

    graph, done = run_reproducer(file, passes, target, validate, make_instruments(print_changes, None))
    print(graph)
    print(done, file=sys.stderr)
    if report is not None:
        write_text(report, done.to_json(indent=1))
