"""What pruning did: sizes before and after, each group and each layer, what was refused and why."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from graphopt.passes.pruning.size import LayerRow, Size

BAR = 32
"""Characters of the widest bar in the plot of widths."""

_LEVELS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class GroupRow:
    """A group of channels: how many there were and are, and the scores of those that stay and go (None where there are
    none).

    kept_least, removed_most: the least score of a channel that stays, and the greatest of one that goes; they overlap
    where limits, rounding or a refusal decided.
    """

    name: str
    before: int
    after: int
    mean: float | None = None
    kept_least: float | None = None
    removed_most: float | None = None
    removed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Channels that were left, and why. channels: how many. where: the source line, if one is known."""

    name: str
    reason: str
    channels: int
    where: str = ""


@dataclass(frozen=True)
class Curve:
    """The sensitivity of one group: at each share of its channels removed, the error of the outputs (or the loss)."""

    name: str
    shares: tuple[float, ...]
    values: tuple[float, ...]
    measure: str = "error"

    def sparkline(self) -> str:
        """The curve as one character a point, on a scale from 0 to its greatest value.

        >>> Curve("conv", (0.1, 0.5, 0.9), (0.0, 0.5, 1.0)).sparkline()
        '▁▅█'
        """
        top = max((v for v in self.values if math.isfinite(v)), default=0.0)
        if top <= 0:
            return _LEVELS[0] * len(self.values)
        return "".join(
            _LEVELS[round(min(max(v / top, 0.0), 1.0) * 7)] if math.isfinite(v) else "!" for v in self.values
        )


@dataclass
class PruningReport:
    """What a run of pruning did.

    asked: what was asked for, as text. criterion, scope: how channels were ranked.
    speedup: measured on the engine, for a latency budget. masked_error: the largest relative difference between the
    pruned graph and the masked model on the samples, None where there are none. exact: it is rounding alone, and not
    also that of constants which were kept where padding makes them wrong.
    """

    asked: str
    criterion: str
    scope: str
    before: Size
    after: Size
    groups: list[GroupRow] = field(default_factory=list)
    layers: list[LayerRow] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    sweep: list[Curve] = field(default_factory=list)
    speedup: float | None = None
    masked_error: float | None = None
    exact: bool = True
    notes: list[str] = field(default_factory=list)

    @classmethod
    def merged(cls, reports: Sequence[PruningReport]) -> PruningReport:
        """One report of several steps, from before the first to after the last. Scores are those of the last."""
        first, last = reports[0], reports[-1]
        if first is last:
            return first
        rows = {row.name: row for row in first.groups}
        for report in reports[1:]:
            rows.update({row.name: _continued(rows[row.name], row) for row in report.groups if row.name in rows})
        layers = {row.name: row for row in last.layers}
        return replace(
            last,
            asked=f"{last.asked}, in {len(reports)} steps",
            before=first.before,
            groups=list(rows.values()),
            layers=[_through(row, layers[row.name]) for row in first.layers if row.name in layers],
            sweep=first.sweep,
            speedup=math.prod(r.speedup for r in reports if r.speedup) if last.speedup is not None else None,
            masked_error=max((r.masked_error for r in reports if r.masked_error is not None), default=None),
        )

    @property
    def removed(self) -> int:
        """The number of channels that went."""
        return sum(row.before - row.after for row in self.groups)

    def widths(self) -> list[dict[str, Any]]:
        """The plot of widths as data: name, channels before and after, for each group in the order of the model."""
        return [{"name": row.name, "before": row.before, "after": row.after} for row in self.groups]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        found = {
            **{
                name: getattr(self, name)
                for name in ("asked", "criterion", "scope", "speedup", "masked_error", "exact")
            },
            "summary": self.summary(),
            "before": self.before._asdict(),
            "after": self.after._asdict(),
            "groups": [asdict(row) for row in self.groups],
            "layers": [_row(row) for row in self.layers],
            "refused": [asdict(row) for row in self.refused],
            "sweep": [asdict(curve) for curve in self.sweep],
            "widths": self.widths(),
            "notes": list(self.notes),
        }
        return _finite(found)

    def to_json(self, indent: int | None = None) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def summary(self) -> str:
        """Return one line: what went, and what is left."""
        total = sum(row.before for row in self.groups)
        parts = [
            f"{self.removed} of {total} channels removed",
            f"MACs {share_text(self.before.macs, self.after.macs)}",
            f"parameters {share_text(self.before.parameters, self.after.parameters)}",
        ]
        if self.speedup is not None:
            parts.append(f"{self.speedup:.2f}x as fast")
        if self.masked_error is not None:
            title = "pruned = masked:" if self.exact else "differs from the masked model by"
            parts.append(f"{title} {self.masked_error:.1e}")
        return ", ".join(parts)

    def lines(self) -> list[str]:
        """Return the summary, and why channels were left, for the report of a pipeline."""
        return [self.summary(), *(f"not pruned: {refusal_line(one)}" for one in self.refused)]

    def rich(self) -> Any:
        """Return the report as a renderable of the library rich."""
        from graphopt.passes.pruning.report_rich import report_view

        return report_view(self)

    def __str__(self) -> str:
        lines = [f"pruned by {self.criterion}, {self.scope}, asked: {self.asked}", self.summary(), ""]
        lines += _bars(self.groups)
        lines += ["", *_layer_lines(self.layers)] if self.layers else []
        lines += ["", "sensitivity (share of channels removed → error)", *map(_curve_line, self.sweep)] * bool(
            self.sweep
        )
        if self.refused:
            lines += ["", "not pruned", *(f"  {refusal_line(one)}" for one in self.refused)]
        return "\n".join([*lines, *self.notes])


def _continued(first: GroupRow, then: GroupRow) -> GroupRow:
    """A group over two steps; channels are numbered as before the first."""
    before = set(first.removed)
    left = [channel for channel in range(first.before) if channel not in before]
    gone = sorted({*first.removed, *(left[channel] for channel in then.removed)})
    return replace(then, before=first.before, removed=tuple(gone))


def _through(first: LayerRow, last: LayerRow) -> LayerRow:
    return replace(
        first,
        pruned_shape=last.pruned_shape,
        pruned_macs=last.pruned_macs,
        pruned_parameters=last.pruned_parameters,
    )


def _row(layer: LayerRow) -> dict[str, Any]:
    """A layer as JSON values; sizes that are symbols as text."""
    shapes = {name: [d if isinstance(d, int) else str(d) for d in getattr(layer, name)] for name in _SHAPES}
    return {**asdict(layer), **shapes}


_SHAPES = ("shape", "pruned_shape")


def _finite(value: Any) -> Any:
    """JSON values, with infinities and NaN as strings."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def share_text(before: int, after: int) -> str:
    """Return `before → after (share)`."""
    return f"{before:,} → {after:,}" + (f" ({after / before:.1%})" if before else "")


def bar(row: GroupRow, widest: int) -> str:
    """The width of a group as a bar, of which the filled part stays; lengths go with the root of the width.

    >>> bar(GroupRow("conv", 16, 4), 64)
    '████░░░░░░░░░░░░'
    """
    length = max(round(BAR * math.sqrt(row.before / max(widest, 1))), 1)
    full = round(length * row.after / max(row.before, 1))
    return "█" * full + "░" * (length - full)


def _bars(rows: Sequence[GroupRow]) -> list[str]:
    """The plot of widths."""
    widest = max((row.before for row in rows), default=1)
    width = max((len(row.name) for row in rows), default=0)
    return [f"{row.name:<{width}}  {row.before:>5} → {row.after:<5} {bar(row, widest)}" for row in rows]


def _layer_lines(rows: Sequence[LayerRow]) -> list[str]:
    cells = [("layer", "weight", "MACs", "parameters")]
    for row in rows:
        shape = "×".join(map(str, row.shape))
        if row.pruned_shape != row.shape:
            shape += " → " + "×".join(map(str, row.pruned_shape))
        macs, parameters = share_text(row.macs, row.pruned_macs), share_text(row.parameters, row.pruned_parameters)
        cells.append((row.name, shape, macs, parameters))
    widths = [max(len(line[i]) for line in cells) for i in range(4)]
    return ["  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in cells]


def _curve_line(curve: Curve) -> str:
    last = f"{curve.values[-1]:.3g} at {curve.shares[-1]:.0%}" if curve.values else ""
    return f"  {curve.sparkline()}  {curve.name}  {last}"


def refusal_line(one: Refusal) -> str:
    """Return a refusal as one line."""
    where = f" (from {one.where})" if one.where else ""
    return f"{one.name}: {one.channels} channels: {one.reason}{where}"
