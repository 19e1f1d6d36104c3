"""The report on a terminal, as a renderable of the library rich: what the page says, without the graphs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.passmanager.report_text import quantity, seconds_text

if TYPE_CHECKING:
    from graphopt.report import CompileReport

BAR = 32
RULES = 15


def terminal_view(report: CompileReport) -> Any:
    """Return the summary, the passes, the error over passes, latencies and engines, and the rules that were tried."""
    from rich.console import Group
    from rich.text import Text

    parts = [_summary(report), Text(), report.passes.rich()]
    for part in (_waterfall(report), _measured(report), _engines(report), _rules(report)):
        if part is not None:
            parts += [Text(), part]
    if report.opaque:
        parts += [Text(), Text(report.opaque_line())]
    if report.seconds:
        stages = ", ".join(f"{name} {seconds_text(value)}" for name, value in report.seconds.items())
        parts += [Text(), Text(f"time: {stages}", style="dim")]
    return Group(*parts)


def _summary(report: CompileReport) -> Any:
    rows = []
    before, after = report.passes.before, report.passes.after
    if before is not None and after is not None:
        for title, name in (
            ("nodes", "nodes"),
            ("stored bytes", "constant_bytes"),
            ("multiply-adds", "macs"),
            ("peak memory", "peak_bytes"),
        ):
            old, new = getattr(before, name), getattr(after, name)
            rows.append(
                (title, quantity(old), quantity(new), f"{(new - old) / old:+.0%}" if old and old != new else "")
            )
    if len(report.measured) > 1:
        old_ms, new_ms = (row.milliseconds for row in report.measured[:2])
        rows.append(("latency", f"{old_ms:.3f} ms", f"{new_ms:.3f} ms", f"{old_ms / new_ms:.2f}x"))
    engine = f" ({report.engine})" if report.engine not in ("", report.target) else ""
    title = f"{report.model or 'model'} for {report.target}{engine}"
    return _table(title, ("", "before", "after", ""), rows)


def _waterfall(report: CompileReport) -> Any:
    """A bar for the error after each pass, relative RMS of the worst output."""
    if report.attribution is not None:
        steps = [(s.name or s.kind, max(o.accumulated.rms for o in s.outputs)) for s in report.attribution.steps]
    else:
        steps = [(r.name, r.error.relative_rms) for r in report.passes.kept if r.error is not None]
    top = max((error for _, error in steps if math.isfinite(error)), default=0.0)
    if not top:
        return None
    rows = [(name, f"{error:.1e}", "█" * round(BAR * min(error / top, 1.0))) for name, error in steps]
    return _table("error over passes (relative RMS)", ("step", "error", ""), rows, text_columns=(0, 2))


def _measured(report: CompileReport) -> Any:
    if not report.measured:
        return None
    rows = [
        (row.name, f"{row.milliseconds:.3f}", f"{row.speed_up:.2f}x", f"{row.megabytes:.2f}") for row in report.measured
    ]
    return _table("measured", ("", "ms", "speed-up", "MB"), rows)


def _engines(report: CompileReport) -> Any:
    if not report.engines:
        return None
    rows = [
        (
            trial.title,
            "" if trial.milliseconds is None else f"{trial.milliseconds:.3f} ms",
            "" if trial.planned_bytes is None else f"{trial.planned_bytes / 1e6:.3g}",
            "chosen" if trial.chosen else trial.reason,
        )
        for trial in report.engines
    ]
    return _table("engines", ("engine", "median", "MB planned", ""), rows, text_columns=(0, 3))


def _rules(report: CompileReport) -> Any:
    """The rules that matched something, busiest first, and how many never fired."""
    rules = report.passes.rules
    matched = sorted((r for r in rules.values() if r.matches), key=lambda r: (-r.applied, -r.matches))
    if not rules:
        return None
    rows = [(r.name, str(r.attempts), str(r.matches), str(r.applied), seconds_text(r.seconds)) for r in matched[:RULES]]
    idle = sum(1 for r in rules.values() if not r.applied)
    title = f"rules: {len(rules)} in all, {idle} never fired"
    return _table(title, ("rule", "attempts", "matches", "applied", "time"), rows)


def _table(
    title: str, headers: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = (0,)
) -> Any:
    from rich.table import Table
    from rich.text import Text

    view = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, header in enumerate(headers):
        view.add_column(header, justify="left" if index in text_columns else "right")
    for row in rows:
        view.add_row(*map(Text, row))
    return view
