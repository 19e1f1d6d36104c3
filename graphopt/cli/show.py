"""`graphopt show`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphopt.cli.options import DynamicOption, ModelArgument, PassesOption, TargetOption, TrustOption, ValueOption
from graphopt.cli.program import app


@app.command()
def show(
    model: ModelArgument,
    passes: PassesOption = "none",
    target: TargetOption = "onnxruntime",
    dynamic: DynamicOption = None,
    locations: Annotated[bool, typer.Option(help="Show where each node came from.")] = True,
    trust: TrustOption = False,
    value: ValueOption = None,
) -> None:
    """Print a model's graph, before or after passes.

    Example: `graphopt show model.pt2 --passes default`
    """
    from graphopt.commands.show import traced
    from graphopt.ir import print_graph

    graph = traced(model, passes=passes, target=target, dynamic_shapes=dynamic, trust=trust, values=value or ())
    print(print_graph(graph, locations=locations))
