"""An error attribution as text and as a renderable of the library rich."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from graphopt.debugging.attribution import EngineError, ErrorAttribution, NodeError
from graphopt.debugging.deviation import Deviation
from graphopt.debugging.places import place_text
from graphopt.debugging.tables import Table, bar, shorten

NODES = 12
"""How many nodes are shown: those that make most of the error."""


def attribution_text(found: ErrorAttribution) -> str:
    """Return the waterfall of each output, the engines, the first bad value, and the nodes with the largest errors."""
    blocks = [block.lines() if isinstance(block, Table) else [block] for block in _blocks(found)]
    return "\n\n".join("\n".join(lines) for lines in blocks)


def attribution_view(found: ErrorAttribution) -> Any:
    """Return the same as a group of tables and remarks."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for block in _blocks(found):
        parts += [block.rich() if isinstance(block, Table) else Text(block), Text("")]
    return Group(*parts[:-1])


def _blocks(found: ErrorAttribution) -> Iterator[Table | str]:
    for index, name in enumerate(found.outputs):
        yield waterfall_table(found, index, name)
    if found.engines:
        yield engine_table(found)
    yield first_text(found)
    worst = worst_nodes(found)
    if worst:
        yield node_table(f"values with the largest local error ({len(worst)} of {len(found.nodes)})", worst)
    if found.notes:
        yield "\n".join(found.notes)


def waterfall_table(found: ErrorAttribution, index: int, name: str) -> Table:
    """The waterfall of one output."""
    rows, styles = [], {}
    for number, step in enumerate(found.steps):
        output = step.outputs[index]
        label = "rounding of the original" if step.kind == "original" else step.text or step.name
        rows.append(
            (
                str(step.number),
                shorten(label, 48),
                percent(output.own.rms),
                percent(output.accumulated.rms),
                signed(output.change),
                f"{100 * output.share:.1f}%" if output.share else "",
                decibels(output.accumulated),
                f"{output.accumulated.max_abs:.3g}",
                f"{output.accumulated.cosine:.6f}",
                bar(abs(output.share)),
            )
        )
        if output.share >= 0.5 and step.kind != "original":
            styles[number] = "bold"
    headers = ("", "step", "own", "error", "change", "share", "SQNR", "max error", "cosine", "part of the final error")
    title = f"error of output {index} (%{name}) against {found.reference}"
    return Table(title, headers, rows, ("", "step", "part of the final error"), styles)


def engine_table(found: ErrorAttribution) -> Table:
    """What each engine makes of the final graph."""
    rows = [_engine_row(found, engine) for engine in found.engines]
    headers = ("engine", "SQNR", "max error", "against the interpreter", "first value out of tolerance")
    return Table("engines, on the final graph", headers, rows, ("engine", "first value out of tolerance"))


def _engine_row(found: ErrorAttribution, engine: EngineError) -> tuple[str, ...]:
    if not engine.outputs:
        return (engine.engine, "", "", "", shorten(engine.reason.replace("\n", " "), 100))
    worst = max(engine.outputs, key=lambda d: d.rms, default=Deviation())
    against = max(engine.against_interpreter, key=lambda d: d.rms, default=Deviation())
    first = engine.reason or ("none" if engine.first is None else value_text(found.nodes[engine.first]))
    return (
        engine.engine,
        decibels(worst),
        f"{worst.max_abs:.3g}",
        decibels(against),
        shorten(first.replace("\n", " "), 100),
    )


def first_text(found: ErrorAttribution) -> str:
    """Which value is out of tolerance first, and which make the error."""
    first = found.first
    if first is None:
        return "every value is within the tolerance"
    lines = [f"first value out of tolerance: {value_text(first)}", f"  {first.accumulated}"]
    lines += [f"  stands for {first.original}"] if first.original else []
    guilty = found.guilty
    if guilty:
        place = value_text(guilty[0])
        made = place if len(guilty) == 1 else f"{len(guilty)} values, most of it at {place}"
        lines.append(f"the error is made at {made}")
        lines.append(f"  on right operands: {guilty[0].local}")
    return "\n".join(lines)


def worst_nodes(found: ErrorAttribution) -> list[NodeError]:
    """The values with the largest local errors, largest first."""
    known = [node for node in found.nodes if node.local is not None and not node.local.is_exact]
    return sorted(known, key=lambda n: -_size(n.local))[:NODES]


def node_table(title: str, nodes: list[NodeError]) -> Table:
    """Local and accumulated errors side by side."""
    rows = [
        (
            shorten(node.node or f"%{node.name}", 60),
            decibels(node.local),
            decibels(node.accumulated),
            decibels(node.own),
            f"{node.accumulated.max_abs:.3g}",
            place_text(node.location, node.scope),
            ", ".join(node.rules),
        )
        for node in nodes
    ]
    headers = ("value", "local SQNR", "accumulated", "original", "max error", "from", "rules")
    styles = {i: "red" for i, node in enumerate(nodes) if not node.local_ok}
    return Table(title, headers, rows, ("value", "from", "rules"), styles)


def value_text(node: NodeError) -> str:
    """A value, where it came from, and what made it."""
    where = place_text(node.location, node.scope)
    rules = "".join(f" <- {rule}" for rule in node.rules)
    return f"{node.node or '%' + node.name}{f' from {where}' if where else ''}{rules}"


def decibels(found: Deviation | None) -> str:
    """The SQNR, or what stands in place of it."""
    if found is None:
        return ""
    if found.problem:
        return "other form"
    if found.is_exact:
        return "exact"
    return f"{found.sqnr:.1f} dB" if math.isfinite(found.sqnr) else "0 signal" if found.rms else "∞ dB"


def percent(share: float) -> str:
    """A relative error, in percent where it is large."""
    return f"{100 * share:.2f}%" if 1e-3 <= share < math.inf else f"{share:.1e}"


def signed(change: float) -> str:
    """A change with its sign."""
    return f"{'+' if change > 0 else '−' if change < 0 else ''}{percent(abs(change))}"


def _size(found: Deviation | None) -> float:
    if found is None:
        return 0.0
    return math.inf if found.problem else found.rms + found.mismatches / max(found.elements, 1)
