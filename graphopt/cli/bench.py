"""`graphopt bench`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from graphopt.cli.options import ModelArgument, PassesOption, TrustOption, ValueOption
from graphopt.cli.program import app


@app.command()
def bench(
    model: ModelArgument,
    target: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Repeat for several (default: cpu).")
    ] = None,
    passes: PassesOption = "default",
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; the median of their medians is shown.")] = 5,
    trust: TrustOption = False,
    value: ValueOption = None,
) -> None:
    """Measure a model before and after: latency, size and error for each target.

    Example: `graphopt bench examples/lenet.py:build -t onnxruntime -t eager`
    """
    from graphopt.commands.bench import bench_table

    Console().print(bench_table(model, target or ["cpu"], passes, rounds, trust, value or ()))
