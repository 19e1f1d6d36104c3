"""`graphopt diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.commands.sources import read_source
from graphopt.debugging import Difference, diff
from graphopt.ir import Graph

Pair = tuple[str | None, str | None]


def diff_models(
    a: str, b: str | None, *, targets: Pair, engines: Pair, passes: str, tolerance: float | None, trust: bool
) -> Difference:
    """Compare the models, graphs or ONNX files that `a` and `b` name; without `b`, one for two targets or engines.

    Raises:
        GraphOptError: whatever reading the models, compiling or the runs raise.
    """
    b = a if b is None else b
    if ".onnx" in (Path(a).suffix, Path(b).suffix):
        return diff(a, b, tolerance=tolerance)
    first = read_source(a, trust=trust)
    second = first if b == a else read_source(b, trust=trust)
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
