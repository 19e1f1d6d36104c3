"""Arguments and options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def _load_plugins(plugins: list[str] | None) -> list[str] | None:
    if plugins:
        from graphopt.plugins import load_plugin

        for plugin in plugins:
            load_plugin(plugin)
    return plugins


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A `.onnx`, `.pt2` or `.gopt` file, `file.py:function` that returns `(model, args)`, or `hub:PATH:entry`.",
    ),
]
ValueOption = Annotated[
    list[str] | None,
    typer.Option(
        "--value",
        metavar="NAME=VALUE",
        help="An input of an ONNX file: `x=FILE.npy`, `shape=1,3,8` or `x=[[1,2]]`. Repeat for several. Needed for "
        "inputs that decide shapes; the others are made up.",
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
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Read a .pt2 file even where PyTorch's loader unpickles; run a hub entry."),
]
ValidateOption = Annotated[bool, typer.Option(help="Check the numbers after each pass.")]
ChangesOption = Annotated[bool, typer.Option("--print-changes", help="Print a diff after each pass.")]
PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        callback=_load_plugins,
        help="A file or module of passes and rules to import, so that pipelines can name them. Repeat for several.",
    ),
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Also write the report to this file: a page (`.html`) or JSON (`.json`).")
]
ProgressOption = Annotated[
    bool | None, typer.Option("--progress/--no-progress", help="Show progress bars (default: on a terminal).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON in place of text.")]


def make_instruments(print_changes: bool, dump: Path | None, progress: bool | None = None) -> list[Any]:
    """Return the instruments that options ask for; progress bars by default where there is a terminal."""
    from graphopt.passmanager import DumpDirectory, PrintAfterChange, Progress

    shown = sys.stderr.isatty() if progress is None else progress
    chosen: list[Any] = [Progress()] if shown else []
    if print_changes:
        chosen.append(PrintAfterChange())
    if dump is not None:
        chosen.append(DumpDirectory(dump))
    return chosen


def show_found(found: Any, json: bool) -> None:
    """Print what a command found: in full as JSON, as tables on a terminal, else as plain text."""
    if json:
        print(found.to_json(indent=1))
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(found.rich())
    else:
        print(found)
