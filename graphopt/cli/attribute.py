"""`graphopt attribute`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli.options import (
    DynamicOption,
    JsonOption,
    PassesOption,
    PluginOption,
    TargetOption,
    TrustOption,
    ValidateOption,
    ValueOption,
)
from graphopt.cli.program import app

EnginesOption = Annotated[
    str | None,
    typer.Option(
        help="Engines to run the result in, such as `eager,onnxruntime,onnxruntime{optimization=off}` "
        "(default: the target's)."
    ),
]
ToleranceOption = Annotated[
    float | None,
    typer.Option(min=0.0, help="The error of a value that is fine, relative to its scale (default: of rounding)."),
]


@app.command()
def attribute(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A model as for `compile`, a `.gopt` file, or a graph in text form (`.gir`, `.txt`)."
        ),
    ],
    target: TargetOption = "onnxruntime",
    passes: PassesOption = "default",
    engines: EnginesOption = None,
    tolerance: ToleranceOption = None,
    dynamic: DynamicOption = None,
    validate: ValidateOption = True,
    json: JsonOption = False,
    trust: TrustOption = False,
    value: ValueOption = None,
    plugin: PluginOption = None,
) -> None:
    """Say which pass, which node and which engine the error of the compiled model comes from.

    Example: `graphopt attribute examples/lenet.py:build --engines eager,onnxruntime`
    """
    from graphopt.cli.options import show_found
    from graphopt.commands.attribute import attribute_model

    found = attribute_model(
        model,
        engines=engines,
        tolerance=tolerance,
        dynamic=dynamic,
        trust=trust,
        values=value or (),
        target=target,
        passes=passes,
        validate="each" if validate else False,
    )
    show_found(found, json)
