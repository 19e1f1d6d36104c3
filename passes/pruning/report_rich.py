"""The report of pruning as tables of the library rich."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table

from graphopt.passes.pruning.report import PruningReport, bar, refusal_line, share_text


def report_view(report: PruningReport) -> Any:
    """Return the summary, the plot of widths, the layers, the sweep and the refusals."""
    parts: list[Any] = [report.summary(), _groups(report)]
    if report.layers:
        parts.append(_layers(report))
    if report.refused:
        parts.append("\n".join(["not pruned", *(f"  {refusal_line(one)}" for one in report.refused)]))
    return Group(*parts)


def _groups(report: PruningReport) -> Table:
    title = f"Channels by {report.criterion}, {report.scope}, asked: {report.asked}"
    table = Table("group", title=title, title_justify="left")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    table.add_column("")
    curves = {curve.name: curve for curve in report.sweep}
    if curves:
        table.add_column("sensitivity")
    widest = max((row.before for row in report.groups), default=1)
    for row in report.groups:
        cells = [row.name, str(row.before), str(row.after), bar(row, widest)]
        curve = curves.get(row.name)
        table.add_row(*cells, *([] if not curves else ["" if curve is None else curve.sparkline()]))
    return table


def _layers(report: PruningReport) -> Table:
    table = Table("layer", "weight", "pruned", title="Layers", title_justify="left")
    for column in ("MACs", "parameters"):
        table.add_column(column, justify="right")
    for row in report.layers:
        shape, pruned = ("×".join(map(str, dims)) for dims in (row.shape, row.pruned_shape))
        macs, parameters = share_text(row.macs, row.pruned_macs), share_text(row.parameters, row.pruned_parameters)
        table.add_row(row.name, shape, "" if pruned == shape else pruned, macs, parameters)
    return table
