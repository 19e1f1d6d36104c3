"""`graphopt passes`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from graphopt.cli.options import PluginOption, TargetOption
from graphopt.cli.program import app


@app.command()
def passes(
    name: Annotated[
        str | None, typer.Argument(help="Explain one pass: its method and its options; or list a named pipeline.")
    ] = None,
    targets: Annotated[bool, typer.Option("--targets", help="List targets in place of passes.")] = False,
    statistics: Annotated[
        str | None,
        typer.Option(
            "--statistics",
            metavar="MODEL",
            help="Run NAME (default: `default`) on a model, and count attempts, matches and time of each rule.",
        ),
    ] = None,
    target: TargetOption = "onnxruntime",
    plugin: PluginOption = None,
) -> None:
    """List the passes, or explain one; count what the rules do to a model.

    Example: `graphopt passes fold-batch-norm`
    """
    from graphopt.commands.passes import describe_pass, pass_table, target_table

    if statistics is not None:
        _print_statistics(statistics, name or "default", target)
    elif name is not None:
        print(describe_pass(name))
    else:
        Console().print(target_table() if targets else pass_table())


def _print_statistics(model: str, passes: str, target: str) -> None:
    from graphopt.commands.statistics import rule_statistics, statistics_view

    table, untried = statistics_view(rule_statistics(model, passes, target), model)
    if sys.stdout.isatty():
        Console().print(table.rich(), untried, sep="\n\n")
    else:
        print("\n".join(table.lines()), untried, sep="\n\n")
