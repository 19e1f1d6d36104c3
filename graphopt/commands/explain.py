"""`graphopt explain`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.commands.sources import read_source
from graphopt.debugging import Explanation, explain


def explain_model(
    text: str,
    pass_: str,
    node: str | None,
    *,
    passes: str | None,
    target: str,
    dynamic: Any,
    validate: bool,
    trust: bool,
    values: Sequence[str] = (),
) -> Explanation:
    """Explain a pass on the model or graph that `text` names.

    Raises:
        GraphOptError: whatever reading the model, capture or the passes raise.
    """
    source = read_source(text, trust=trust, values=values)
    return explain(
        source.model,
        pass_,
        node,
        args=source.args,
        kwargs=source.kwargs or None,
        passes=passes,
        target=target,
        dynamic_shapes=dynamic,
        trust=trust,
        validate="each" if validate and source.args is not None else False,
    )
