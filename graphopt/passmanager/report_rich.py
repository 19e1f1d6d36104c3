"""The report as a renderable of the library rich, for the command line."""

from __future__ import annotations

from typing import Any

from graphopt.passmanager.report import Report, Status
from graphopt.passmanager.report_text import COLUMNS, declined_lines, row, totals

_STYLES = {
    Status.KEPT: "green",
    Status.NO_CHANGE: "dim",
    Status.ROLLED_BACK: "bold red",
    Status.SKIPPED: "yellow",
    Status.FAILED: "bold red",
}


def report_view(report: Report) -> Any:
    """Return a table with the totals and remarks below it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    view = Table(title="passes", title_justify="left", box=None, pad_edge=False)
    for header in COLUMNS:
        view.add_column(header, justify="left" if header in ("pass", "status", "promise") else "right", no_wrap=True)
    for record in report.records:
        view.add_row(*map(Text, row(record)), style=_STYLES[record.status])
    reasons = [f"{r.name}: {r.status.value}: {r.reason}" for r in report.records if r.reason]
    remarks = [f"{r.name}: {note}" for r in report.records for note in r.notes]
    remarks += [*declined_lines(report.records), *report.notes]
    return Group(
        view,
        Text("\n".join(totals(report)), style="bold"),
        *(Text(reason, style="red") for reason in reasons),
        *(Text(remark, style="dim") for remark in remarks),
    )
