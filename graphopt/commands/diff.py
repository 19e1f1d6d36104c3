"""`graphopt diff`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.commands.sources import read_source
from graphopt.debugging import Difference, diff
from graphopt.ir import Graph
from graphopt.onnx_models import SUFFIX
from graphopt.onnx_values import parse_values

Pair = tuple[str | None, str | None]


def diff_models(
    a: str,
    b: str | None,
    *,
    targets: Pair,
    engines: Pair,
    passes: str,
    tolerance: float | None,
    trust: bool,
    values: Sequence[str] = (),
) -> Difference:
    """Compare the models, graphs or ONNX files that `a` and `b` name; without `b`, one for two targets or engines.

    Raises:
        GraphOptError: whatever reading the models, compiling or the runs raise.
    """
    b = a if b is None else b
    if not any((*targets, *engines)) and Path(a).suffix == Path(b).suffix == SUFFIX:
        return diff(a, b, kwargs=parse_values(Path(a), values), tolerance=tolerance)
    first = read_source(a, trust=trust, values=values if Path(a).suffix == SUFFIX else ())
    second = first if b == a else read_source(b, trust=trust, values=values if Path(b).suffix == SUFFIX else ())
    # The inputs are a module's rather than a graph's, where one is a module: a graph takes them flat.
    source = second if isinstance(first.model, Graph) and not isinstance(second.model, Graph) else first
    args: Any = source.inputs(a if source is first else b)
    options = {"passes": passes} if any(targets) else {}
    return diff(
        first.model,
        second.model,
        args,
        source.kwargs,
        targets=targets,
        engines=engines,
        names=(a, b),
        tolerance=tolerance,
        **options,
    )
