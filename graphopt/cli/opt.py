"""`graphopt opt`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.bisect import CheckOption, EngineOption
from graphopt.cli.options import (
    ChangesOption,
    PipelineOption,
    PluginOption,
    ReportOption,
    ValidateOption,
    ValueOption,
    make_instruments,
)
from graphopt.cli.program import app


@app.command()
def opt(
    file: Annotated[
        Path,
        typer.Argument(help="A reproducer that a failure wrote, a graph in text form, a `.gopt` or an `.onnx` file."),
    ],
    passes: PipelineOption = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="What to compile for (default: what the file says, else onnxruntime)."),
    ] = None,
    validate: ValidateOption = True,
    check: CheckOption = None,
    engine: EngineOption = None,
    print_changes: ChangesOption = False,
    report: ReportOption = None,
    plugin: PluginOption = None,
    value: ValueOption = None,
) -> None:
    """Run passes over a graph and print the result. This is how a reproducer is run again.

    Example: `graphopt opt graph.txt --passes canonicalize,dead-code`
    """
    from graphopt.commands.judges import Judge
    from graphopt.commands.opt import opt_report, run_reproducer
    from graphopt.html_report import check_suffix

    judge = Judge(check, engine)
    if report is not None:
        check_suffix(report)
    done = run_reproducer(file, passes, target, validate, make_instruments(print_changes, None), judge, value or ())
    print(done.graph)
    print(done.report, file=sys.stderr)
    if report is not None:
        opt_report(done).save(report)
