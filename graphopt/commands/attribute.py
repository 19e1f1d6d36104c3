"""`graphopt attribute`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.commands.sources import read_source
from graphopt.debugging import ErrorAttribution, attribute_error
from graphopt.ir import Graph


def attribute_model(
    text: str,
    *,
    engines: str | None,
    tolerance: float | None,
    dynamic: Any,
    trust: bool,
    values: Sequence[str] = (),
    **options: Any,
) -> ErrorAttribution:
    """Compile the model or graph that `text` names, and say where its error comes from.

    Raises:
        GraphOptError: whatever reading the model, compiling or the runs raise.
    """
    source = read_source(text, trust=trust, values=values)
    if not isinstance(source.model, Graph):
        options["dynamic_shapes"] = dynamic
    return attribute_error(
        source.model, source.inputs(text), source.kwargs, engines=engines, tolerance=tolerance, **options
    )
