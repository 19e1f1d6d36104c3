"""A difference as text and as a renderable of the library rich."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from graphopt.debugging.attribution_text import decibels
from graphopt.debugging.difference import Difference, ValueDifference
from graphopt.debugging.places import place_text
from graphopt.debugging.tables import Table, shorten

NODES = 40
VALUES = 8
WIDTH = 110
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}
_STYLES = {"added": "green", "removed": "red", "changed": "yellow"}


def difference_text(found: Difference) -> str:
    """Return the structure, the stored tensors, the outputs, and where the numbers first diverge."""
    return "\n\n".join("\n".join(b.lines() if isinstance(b, Table) else [b]) for b in _blocks(found))


def difference_view(found: Difference) -> Any:
    """Return the same as a group of tables and text."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for block in _blocks(found):
        parts += [block.rich() if isinstance(block, Table) else Text(block), Text("")]
    return Group(*parts[:-1])


def _blocks(found: Difference) -> Iterator[Table | str]:
    yield f"a: {found.a}\nb: {found.b}"
    yield _structure(found)
    if found.ops:
        rows = [(op, str(a), str(b), f"{b - a:+d}") for op, (a, b) in found.ops.items()]
        yield Table("operators", ("operator", "a", "b", ""), rows, ("operator",))
    if found.nodes:
        yield _node_table(found)
    if found.tensors:
        yield _value_table("stored tensors of one name that differ", found.tensors[:NODES])
    if found.outputs:
        yield _value_table("outputs, b against a", found.outputs)
        yield _first(found)
        worst = sorted(found.values, key=lambda v: -v.deviation.rms)[:VALUES]
        shown = [value for value in worst if not value.deviation.is_exact]
        if shown:
            yield _value_table(f"values that differ most ({len(shown)} of {len(found.values)} compared)", shown)
    if found.notes:
        yield "\n".join(found.notes)


def _structure(found: Difference) -> str:
    if found.is_same_structure:
        return f"the same {found.same} nodes"
    counts = {kind: sum(node.kind == kind for node in found.nodes) for kind in _SIGNS}
    return f"{found.same} nodes are the same, " + ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _node_table(found: Difference) -> Table:
    rows = [
        (_SIGNS[n.kind], shorten(n.b or n.a, WIDTH), shorten(n.what, 60), place_text(n.location, n.scope))
        for n in found.nodes[:NODES]
    ]
    left = len(found.nodes) - len(rows)
    headers = ("", "node", "change", "from")
    styles = {i: _STYLES[node.kind] for i, node in enumerate(found.nodes[:NODES])}
    title = f"nodes that differ{f' (the first {NODES}; {left} others)' if left else ''}"
    return Table(title, headers, rows, headers, styles)


def _value_table(title: str, values: list[ValueDifference]) -> Table:
    rows = [
        (
            shorten(v.b, WIDTH),
            decibels(v.deviation),
            v.deviation.problem or f"{v.deviation.max_abs:.3g}",
            f"{v.deviation.cosine:.6f}",
            decibels(v.own),
            "" if v.ok else "out of tolerance",
            place_text(v.location, v.scope),
        )
        for v in values
    ]
    headers = ("value", "SQNR", "max", "cosine", "own rounding", "", "from")
    styles = {i: "red" for i, value in enumerate(values) if not value.ok}
    return Table(title, headers, rows, ("value", "", "from"), styles)


def _first(found: Difference) -> str:
    first = found.first
    if first is None:
        return f"all {len(found.values)} corresponding values are within the tolerance"
    place = place_text(first.location, first.scope)
    lines = [f"they first diverge at {first.b}{f' from {place}' if place else ''}", f"  {first.deviation}"]
    return "\n".join([*lines, *([f"  in a: {first.a}"] if first.a != first.b else [])])
