"""`graphopt explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli.options import (
    DynamicOption,
    JsonOption,
    PluginOption,
    TargetOption,
    TrustOption,
    ValidateOption,
    ValueOption,
)
from graphopt.cli.program import app


@app.command()
def explain(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model as for `compile`, a `.gopt` file, or a graph in text form (`.gir`, `.txt`)."
        ),
    ],
    pass_: Annotated[str, typer.Option("--pass", help="The pass to explain.")],
    node: Annotated[
        str | None,
        typer.Option(help="Only this node: its result, operator, module, or source line (`model.py:12`)."),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes", "-p", help="The pipeline that the pass is part of (default: `default`; for a graph, the pass)."
        ),
    ] = None,
    target: TargetOption = "onnxruntime",
    dynamic: DynamicOption = None,
    validate: ValidateOption = True,
    json: JsonOption = False,
    trust: TrustOption = False,
    value: ValueOption = None,
    plugin: PluginOption = None,
) -> None:
    """Say what a pass did, which nodes it left alone and why, and where the nodes of the result came from.

    Example: `graphopt explain examples/lenet.py:build --pass fold-batch-norm`
    """
    from graphopt.cli.options import show_found
    from graphopt.commands.explain import explain_model

    found = explain_model(
        model,
        pass_,
        node,
        passes=passes,
        target=target,
        dynamic=dynamic,
        validate=validate,
        trust=trust,
        values=value or (),
    )
    show_found(found, json)
