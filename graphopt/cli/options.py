"""Arguments and options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A `.pt2` or `.gopt` file, or `file.py:function` that returns `(model, args)`."
    ),
]
TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="What to compile for; see `graphopt passes --targets`.")
]
PassesOption = Annotated[
    str,
    typer.Option(
        "--passes", "-p", help="`default`, `none`, or a pipeline such as `fold-constants,dead-code{constants=false}`."
    ),
]
PipelineOption = Annotated[
    str | None, typer.Option("--passes", "-p", help="The pipeline, if the file names none or another is to run.")
]
DynamicOption = Annotated[
    str | None,
    typer.Option("--dynamic", help="`batch`: the first dim of every input is dynamic. `auto`: every dim that can be."),
]
TrustOption = Annotated[bool, typer.Option("--trust", help="Read a .pt2 file even where PyTorch's loader unpickles.")]
ValidateOption = Annotated[bool, typer.Option(help="Check the numbers after each pass.")]
ChangesOption = Annotated[bool, typer.Option("--print-changes", help="Print a diff after each pass.")]
ReportOption = Annotated[Path | None, typer.Option(help="Also write the report, as JSON, to this file.")]


def make_instruments(print_changes: bool, dump: Path | None) -> list[Any]:
    """Return the instruments that options ask for, and a progress line where there is a terminal."""
    from graphopt.passmanager.instruments import DumpDirectory, PrintAfterChange, Progress

    chosen: list[Any] = [Progress()] if sys.stderr.isatty() else []
    if print_changes:
        chosen.append(PrintAfterChange())
    if dump is not None:
        chosen.append(DumpDirectory(dump))
    return chosen
