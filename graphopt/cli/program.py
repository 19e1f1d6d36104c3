"""The program itself: its help, its version, and how it reports errors."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from graphopt.errors import GraphOptError, GraphOptWarning

app = typer.Typer(
    name="graphopt",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="PyTorch and ONNX models in, faster FX modules and ONNX graphs out, every rewrite checked.",
    epilog="MODEL is a `.onnx`, `.pt2` or `.gopt` file, or `module:function` (also `file.py:function`), where the "
    "function returns `(model, args)` or `(model, args, kwargs)`. Start with `graphopt show MODEL`, then "
    "`graphopt compile MODEL -o model.onnx`, then `graphopt bench MODEL -t onnxruntime`.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from graphopt import __version__

        print(f"graphopt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Graphopt's own warnings say themselves what they are about; a line of its source helps nobody on a terminal."""
    if issubclass(category, GraphOptWarning):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def main() -> None:
    """Run the command line; a `GraphOptError` is printed without a traceback, and the exit status is 1."""
    warnings.formatwarning = _format_warning
    try:
        app()
    except GraphOptError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print("error:", style="bold red", end=" ")
        print(error, file=sys.stderr)
        sys.exit(1)
