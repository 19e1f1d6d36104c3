"""`graphopt bisect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphopt.cli.options import (
    DynamicOption,
    ModelArgument,
    PassesOption,
    PluginOption,
    TargetOption,
    TrustOption,
    ValueOption,
)
from graphopt.cli.program import app

CheckOption = Annotated[
    str | None,
    typer.Option(
        "--check",
        help="`file.py:function`: judge by your own function of the model, which returns False, or fails an assertion, "
        "if the model is bad.",
    ),
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", help="Judge by what this engine computes, against the original graph.")
]


@app.command()
def bisect(
    model: ModelArgument,
    target: TargetOption = "onnxruntime",
    passes: PassesOption = "default",
    dynamic: DynamicOption = None,
    check: CheckOption = None,
    engine: EngineOption = None,
    numbers: Annotated[bool, typer.Option("--list", help="List every rule application with its number.")] = False,
    reproducers: Annotated[Path, typer.Option(help="The folder for the reproducer.")] = Path("graphopt-reproducers"),
    plugin: PluginOption = None,
    trust: TrustOption = False,
    value: ValueOption = None,
) -> None:
    """Find the first rewrite after which a model's numbers are wrong, and shrink it to a small graph.

    By default every pass is held to its promise. The exit status is 1 if a culprit is found, 0 if there is none.

    Example: `graphopt bisect net.py:build -p default,my-pass --plugin my_pass.py`
    """
    from graphopt.commands.bisect import bisect_model
    from graphopt.commands.judges import Judge

    done = bisect_model(
        model,
        target=target,
        passes=passes,
        dynamic_shapes=dynamic,
        judge=Judge(check, engine),
        folder=reproducers,
        trust=trust,
        values=value or (),
    )
    print(done.text(numbers))
    raise typer.Exit(1 if done.found else 0)
