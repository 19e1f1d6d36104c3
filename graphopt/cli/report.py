"""`graphopt report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.program import app


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="A saved model (`.gopt`), or a report that was written as JSON.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write: a page (`.html`) or JSON (`.json`).")
    ] = Path("report.html"),
) -> None:
    """Write the report of a compiled model as a page that needs no network.

    Example: `graphopt report lenet.gopt -o lenet.html`
    """
    from graphopt.html_report import check_suffix, read_report, write_report

    check_suffix(output)
    write_report(read_report(source), output)
    print(f"wrote {output}")
