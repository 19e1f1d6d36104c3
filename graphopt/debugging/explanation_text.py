"""An explanation as text and as a renderable of the library rich."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from graphopt.debugging.explanation import Candidate, Explanation, NodeHistory, RuleCount
from graphopt.debugging.places import place_text
from graphopt.debugging.tables import Table, shorten

CANDIDATES = 12
ATTEMPTS = 3
HISTORIES = 12
APPLIED = 12
NAMES = 8
UNTRIED = 12
"""How much is shown where nothing particular was asked for; all of it is in the JSON form."""
WIDTH = 150
_NAME = re.compile(r"%[^\s,()]+")


def explanation_text(found: Explanation) -> str:
    """Return what fired, what was left alone and why, the rules' counts, and the histories of nodes."""
    return "\n\n".join("\n".join(b.lines() if isinstance(b, Table) else [b]) for b in _blocks(found))


def explanation_view(found: Explanation) -> Any:
    """Return the same as a group of tables and text."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for block in _blocks(found):
        parts += [block.rich() if isinstance(block, Table) else Text(block), Text("")]
    return Group(*parts[:-1])


def _blocks(found: Explanation) -> Iterator[Table | str]:
    yield headline(found)
    if found.notes:
        yield "\n".join(found.notes)
    if found.fates:
        yield "\n".join(found.fates)
    if found.applied:
        yield _applied_text(found)
    yield from _candidates_text(found)
    if found.rules and not found.node:
        if any(count.attempts or count.applied for count in found.rules):
            yield rule_table(found.rules, f"rules of {found.pass_}")
        if untried_text(found.rules):
            yield untried_text(found.rules)
    changed = [history for history in found.histories if history.events or found.node]
    if changed:
        yield history_text(changed[: None if found.node else HISTORIES], len(changed))


def _candidates_text(found: Explanation) -> Iterator[str]:
    """Candidates, alike ones together; where nothing particular was asked for, those of which no more than the
    operator fits are counted alone."""
    if found.node:
        yield from (candidate_text(candidate) for candidate in found.candidates)
        return
    groups: dict[tuple[Any, ...], list[Candidate]] = {}
    near = [candidate for candidate in found.candidates if _is_near(candidate)] or found.candidates
    for candidate in near:
        groups.setdefault(_kind(candidate), []).append(candidate)
    for first, *others in list(groups.values())[:CANDIDATES]:
        text = candidate_text(first, ATTEMPTS)
        yield f"{text}\n  likewise at {_listed(others)}" if others else text
    left = [c for group in list(groups.values())[CANDIDATES:] for c in group]
    if left:
        yield f"… and {len(left)} other nodes; name one (--node) to see it"
    if len(near) < len(found.candidates):
        far = len(found.candidates) - len(near)
        yield f"at {far} node{'s' if far != 1 else ''} a rule's first operator fits and nothing else does"


def _is_near(candidate: Candidate) -> bool:
    closest = candidate.closest
    return bool(candidate.reason) or (closest is not None and (closest.matched > 1 or closest.stage > 0))


def _kind(candidate: Candidate) -> tuple[Any, ...]:
    """What candidates that are shown together have in common: all but the names of values."""
    attempts = [(a.rule, a.stage, a.matched, tuple(_NAME.sub("%", r) for r in a.reasons)) for a in candidate.attempts]
    return candidate.op, _NAME.sub("%", candidate.reason), tuple(attempts[:ATTEMPTS])


def _listed(candidates: list[Candidate]) -> str:
    names = [f"%{candidate.name or '?'}" for candidate in candidates]
    return ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES} others" if len(names) > NAMES else "")


def headline(found: Explanation) -> str:
    """What was explained, in a line."""
    about = f" at {found.node}" if found.node else ""
    fired = f"{len(found.applied)} application{'s' if len(found.applied) != 1 else ''}"
    left = f"{len(found.candidates)} candidate{'s' if len(found.candidates) != 1 else ''} left"
    return f"{found.pass_}{about}: {fired}; {left} in {found.where}"


def _applied_text(found: Explanation) -> str:
    lines = [f"step {a.step}, application {a.number}: {a.rule} at {shorten(a.node, WIDTH)}" for a in found.applied]
    if not found.node and len(lines) > APPLIED:
        lines = [*lines[:APPLIED], f"… and {len(lines) - APPLIED} others"]
    return "\n".join(["applied:", *(f"  {line}" for line in lines)])


def candidate_text(candidate: Candidate, limit: int | None = None) -> str:
    """A node, where it came from, and what the closest rules make of it (at most `limit`)."""
    place = place_text(candidate.location, candidate.scope)
    lines = [f"{shorten(candidate.node, WIDTH)}{f'  from {place}' if place else ''}"]
    if candidate.reason:
        lines.append(f"  {candidate.reason}")
    shown = candidate.attempts[:limit]
    lines += [f"  {attempt}" for attempt in shown]
    if limit is None:
        lines += [f"    wants {attempt.pattern}" for attempt in shown[:1]]
    if len(shown) < len(candidate.attempts):
        lines.append(f"  and {len(candidate.attempts) - len(shown)} other rules, further away")
    return "\n".join(lines)


def rule_table(rules: Sequence[RuleCount], title: str) -> Table:
    """The counts of the rules that were tried; those that never fired are dimmed, those that were not tried left out.

    A rule is tried where a node is its root operator and the node's first two operands come from where it wants them.
    """
    tried = [count for count in rules if count.attempts or count.applied]
    rows = [
        (c.pass_, c.rule, str(c.attempts), str(c.matches), str(c.applied), f"{1e3 * c.seconds:.1f}", _remark(c))
        for c in tried
    ]
    headers = ("pass", "rule", "attempts", "matches", "applied", "ms", "")
    styles = {i: "dim" for i, count in enumerate(tried) if not count.fired}
    return Table(title, headers, rows, ("pass", "rule", ""), styles)


def untried_text(rules: Sequence[RuleCount]) -> str:
    """The rules that no node comes near, in a line; "" if there are none."""
    names = [count.rule for count in rules if not (count.attempts or count.applied)]
    if not names:
        return ""
    others = f" and {len(names) - UNTRIED} others" if len(names) > UNTRIED else ""
    return f"never tried, for no node begins as their patterns do: {', '.join(names[:UNTRIED])}{others}"


def _remark(count: RuleCount) -> str:
    if count.fired:
        return ""
    return "never fired: declined" if count.matches else "never fired: no pattern matches"


def history_text(histories: list[NodeHistory], total: int) -> str:
    """Source line → original node → what happened to it, for each node of the result."""
    lines = []
    for history in histories:
        place = place_text(history.location, history.scope)
        lines.append(f"  {shorten(history.node, WIDTH)}")
        lines.append(f"    {place or 'unknown location'} → {shorten(history.original, WIDTH) or 'made by a pass'}")
        lines += [f"    → {shorten(event, WIDTH)}" for event in history.events]
    if len(histories) < total:
        lines.append(f"  … and {total - len(histories)} other nodes that were changed; name one (--node) to see it")
    return "\n".join(["nodes of the result, and where they came from:", *lines])
