"""`graphopt passes`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from graphopt.cli.program import app


@app.command()
def passes(
    name: Annotated[
        str | None, typer.Argument(help="Explain one pass: its method and its options; or list a named pipeline.")
    ] = None,
    targets: Annotated[bool, typer.Option("--targets", help="List targets in place of passes.")] = False,
) -> None:
    """List the passes, or explain one.

    Example: `graphopt passes fold-batch-norm`
    """
    from graphopt.commands.passes import describe_pass, pass_table, target_table

    if name is not None:
        print(describe_pass(name))
    else:
        Console().print(target_table() if targets else pass_table())
