"""The report as a plain-text table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from graphopt.analysis import GraphCost
from graphopt.passmanager.report import ErrorSummary, PassRecord, Report, Status

COLUMNS = ("pass", "status", "nodes", "parameters", "FLOPs", "bytes", "error", "promise", "time", "checks")
_LEFT = frozenset({"pass", "status", "promise"})


def report_text(report: Report) -> str:
    """Return the table, the totals, and what a person should know."""
    rows = [row(record) for record in report.records]
    lines = [*table(COLUMNS, rows), "", *totals(report)]
    lines += [f"{r.name}: {r.status.value}: {r.reason}" for r in report.records if r.reason]
    lines += [f"{r.name}: {note}" for r in report.records for note in r.notes]
    lines += declined_lines(report.records)
    lines += report.notes
    return "\n".join(lines)


def row(record: PassRecord) -> tuple[str, ...]:
    """Return the cells of a record."""
    before, after = record.before, record.after
    name = f"{record.where} {record.text}" if record.where else record.text
    return (
        shorten(name, 44),
        record.status.value,
        change(before, after, "nodes"),
        change(before, after, "parameters"),
        change(before, after, "flops"),
        change(before, after, "bytes"),
        error_text(record.error),
        record.promise,
        seconds_text(record.seconds),
        seconds_text(record.verify_seconds + record.validate_seconds),
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines of aligned columns; columns that are empty throughout are left out."""
    cells = [tuple(r) for r in rows]
    used = [i for i, h in enumerate(headers) if i == 0 or any(r[i] for r in cells)]
    widths = {i: max(len(headers[i]), *(len(r[i]) for r in cells)) if cells else len(headers[i]) for i in used}

    def line(r: Sequence[str]) -> str:
        parts = (r[i].ljust(widths[i]) if headers[i] in _LEFT else r[i].rjust(widths[i]) for i in used)
        return "  ".join(parts).rstrip()

    return [line(headers), "  ".join("-" * widths[i] for i in used), *map(line, cells)]


def totals(report: Report) -> list[str]:
    """Return the lines below the table."""
    lines = []
    if report.before is not None and report.after is not None:
        parts = [
            f"{label} {ratio_text(getattr(report.before, name), getattr(report.after, name))}"
            for name, label in (
                ("nodes", "nodes"),
                ("parameters", "parameters"),
                ("flops", "FLOPs"),
                ("bytes", "bytes"),
                ("peak_bytes", "peak memory"),
            )
        ]
        lines.append("total: " + ", ".join(parts))
        lines += cost_notes(report.after)
    checked = f"validation: {report.validate}"
    if report.validate != "off":
        checked += f", {report.samples} sample sets, {report.model_runs} model runs"
    lines.append(f"{checked}, {seconds_text(report.seconds)} in all")
    if report.total_error is not None:
        lines.append(f"error against the original: {error_sentence(report.total_error)}")
    return lines


def cost_notes(cost: GraphCost) -> list[str]:
    """Say what the costs rest on."""
    lines = []
    if cost.assumed:
        sizes = ", ".join(f"{name}={size}" for name, size in cost.assumed.items())
        lines.append(f"costs assume {sizes}")
    if cost.unknown:
        ops = ", ".join(f"{name} ({count})" for name, count in cost.unknown.items())
        lines.append(f"costs are estimates for {ops}")
    return lines


def declined_lines(records: Sequence[PassRecord]) -> list[str]:
    """Say why rules left nodes alone."""
    lines = []
    for record in records:
        if record.status is Status.ROLLED_BACK:
            continue
        for declined in record.declined:
            times = f"{declined.count} times" if declined.count > 1 else "once"
            where = f", as at {declined.examples[0]}" if declined.examples else ""
            lines.append(f"{record.name}: {declined.rule} declined {times}: {declined.reason}{where}")
    return lines


def change(before: GraphCost | None, after: GraphCost | None, name: str) -> str:
    """Return `old → new`, `old` where nothing changed, or nothing."""
    if before is None:
        return ""
    old = getattr(before, name)
    new = getattr(after, name) if after is not None else old
    return quantity(old) if old == new else f"{quantity(old)} → {quantity(new)}"


def ratio_text(before: float, after: float) -> str:
    """Return `old → new (−12 %)`."""
    if before == after:
        return quantity(before)
    share = f" ({(after - before) / before:+.0%})" if before else ""
    return f"{quantity(before)} → {quantity(after)}{share}"


def quantity(value: float) -> str:
    """Return a number with three digits and a unit prefix.

    >>> quantity(950), quantity(11_689_512), quantity(3.6e9)
    ('950', '11.7M', '3.6G')
    """
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= scale:
            return f"{value / min(scale, 1e3 if unit == 'k' else scale):.3g}{unit}"
    return str(int(value))


def seconds_text(seconds: float) -> str:
    """Return a time with a fitting unit.

    >>> seconds_text(0), seconds_text(0.0123), seconds_text(12.3)
    ('', '12.3 ms', '12.3 s')
    """
    if seconds == 0:
        return ""
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def error_text(error: ErrorSummary | None) -> str:
    """Return the relative error, or nothing."""
    if error is None:
        return ""
    text = "0" if error.max_rel == 0 else f"{error.max_rel:.1e}"
    return f"{text}, {error.mismatches} differ" if error.mismatches else text


def error_sentence(error: ErrorSummary) -> str:
    """Return an error in words."""
    parts = []
    if error.max_abs == 0 and not error.mismatches:
        return "none"
    if error.max_abs:
        parts.append(f"{error.max_abs:.2e} at most, {error.max_rel:.2e} of the output's scale")
        if math.isfinite(error.sqnr):
            parts.append(f"SQNR {error.sqnr:.1f} dB")
    if error.mismatches:
        parts.append(f"{error.mismatches} of {error.elements} integers differ")
    return ", ".join(parts)


def shorten(text: str, limit: int) -> str:
    """Return the text, cut in the middle if it is too long."""
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[: limit - 1 - half]}…{text[len(text) - half :]}"
