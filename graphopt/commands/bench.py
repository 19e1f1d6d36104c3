"""`graphopt bench`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.model_source import resolve_model

if TYPE_CHECKING:
    from rich.table import Table

    from graphopt.measure import Measurement


def bench_table(
    text: str, targets: Sequence[str], passes: str, rounds: int, trust: bool, values: Sequence[str] = ()
) -> Table:
    """Compile the model for each target and return a table of latency, size and error beside PyTorch eager, of an ONNX
    file beside the file in ONNX Runtime.

    Raises:
        GraphOptError: the saved form, which holds no original; whatever compiling raises.
    """
    from graphopt.measure import compare_targets

    source = resolve_model(text, values, trust=trust).opened(trust)
    original = source.original() if source.is_onnx else None
    rows = compare_targets(
        source.model, source.args, source.kwargs, targets, passes=passes, rounds=rounds, original=original
    )
    return measurement_table(rows, text)


def measurement_table(rows: Sequence[Measurement], title: str) -> Table:
    """Return measurements as a table."""
    from rich.table import Table

    table = Table("", title=title, title_justify="left")
    for column in ("ms", "speed-up", "nodes", "MB", "max error"):
        table.add_column(column, justify="right")
    for row in rows:
        error = "" if row.max_error is None else f"{row.max_error:.1e}"
        table.add_row(
            row.name, f"{row.milliseconds:.3f}", f"{row.speed_up:.2f}x", str(row.nodes), f"{row.megabytes:.2f}", error
        )
    return table
