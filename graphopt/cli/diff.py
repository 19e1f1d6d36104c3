"""`graphopt diff`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli.options import JsonOption, PassesOption, PluginOption, TrustOption, ValueOption
from graphopt.cli.program import app

_KINDS = "A model as for `compile`, a `.gopt` file, a graph in text form (`.gir`, `.txt`), or an `.onnx` file"


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=f"{_KINDS}.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="The other (default: A itself).")] = None,
    target_a: Annotated[str | None, typer.Option(help="Compile A for this target first.")] = None,
    target_b: Annotated[str | None, typer.Option(help="Compile B for this target first.")] = None,
    engine_a: Annotated[
        str | None, typer.Option(help="What runs A: `interpreter`, `eager`, `onnxruntime{optimization=off}`, …")
    ] = None,
    engine_b: Annotated[str | None, typer.Option(help="What runs B.")] = None,
    passes: PassesOption = "default",
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="The deviation of a value that is fine, relative to its scale (default: rounding)."),
    ] = None,
    json: JsonOption = False,
    trust: TrustOption = False,
    value: ValueOption = None,
    plugin: PluginOption = None,
) -> None:
    """Say what sets two models apart: which nodes and stored tensors, and where their numbers first diverge.

    Exits with 1 if an output is beyond the tolerance.

    Example: `graphopt diff examples/lenet.py:build --target-b onnxruntime`
    """
    from graphopt.cli.options import show_found
    from graphopt.commands.diff import diff_models

    found = diff_models(
        a,
        b,
        targets=(target_a, target_b),
        engines=(engine_a, engine_b),
        passes=passes,
        tolerance=tolerance,
        trust=trust,
        values=value or (),
    )
    show_found(found, json)
    raise typer.Exit(0 if found.agrees else 1)
