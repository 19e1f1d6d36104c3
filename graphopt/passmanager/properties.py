"""The order of passes: what each requires, conflicts with, establishes and preserves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from graphopt.errors import PassError
from graphopt.passmanager.base import Pass
from graphopt.passmanager.pipeline import Pipeline

SEARCH_LIMIT = 2000


def objection(pass_: Pass, properties: Set[str]) -> str | None:
    """Return why a pass may not run on a graph with these properties, or None."""
    missing = [p for p in sorted(pass_.requires) if p not in properties]
    if missing:
        return f"{pass_.name!r} needs a graph that is {_listed(missing)}"
    barred = [p for p in sorted(pass_.conflicts) if p in properties]
    if barred:
        return f"{pass_.name!r} cannot run on a graph that is {_listed(barred)}"
    return None


def update(properties: set[str], pass_: Pass) -> None:
    """Bring properties up to date after a pass."""
    if pass_.preserves is not None:
        properties &= pass_.preserves
    properties |= pass_.establishes


def check_order(pipeline: Pipeline, properties: Iterable[str] = ()) -> None:
    """Refuse a pipeline in which a pass comes where it may not.

    Raises:
        PassError: names the pass, the one that it clashes with, and an order that works, if there is one.
    """
    passes = list(pipeline.leaves())
    held = set(properties)
    for position, pass_ in enumerate(passes):
        reason = objection(pass_, held)
        if reason is not None:
            cause = _cause(passes[:position], pass_)
            raise PassError(f"{reason}{cause}; {_advice(passes, set(properties))}")
        update(held, pass_)


def _cause(before: Sequence[Pass], pass_: Pass) -> str:
    """Name the pass that established what this one conflicts with."""
    for other in reversed(before):
        if other.establishes & pass_.conflicts:
            return f", and {other.name!r} comes before it"
    return ""


def _advice(passes: Sequence[Pass], properties: set[str]) -> str:
    order = legal_order(passes, properties)
    if order is not None:
        return f"the right order is: {','.join(p.name for p in order)}"
    established = set(properties).union(*(p.establishes for p in passes))
    lacking = sorted({p for pass_ in passes for p in pass_.requires} - established)
    if lacking:
        makers = _makers(lacking)
        hint = f", such as {' or '.join(map(repr, makers))}" if makers else ""
        return f"add a pass that makes it {_listed(lacking)}{hint}"
    return "no order of these passes works; leave one of them out"


def legal_order(passes: Sequence[Pass], properties: set[str]) -> list[Pass] | None:
    """Return the first order, as near as possible to the given one, in which every pass may run; None if none is found.

    The search is depth-first and gives up after `SEARCH_LIMIT` steps.
    """
    dead_ends: set[tuple[tuple[int, ...], frozenset[str]]] = set()

    def search(left: tuple[int, ...], held: frozenset[str]) -> list[Pass] | None:
        if not left:
            return []
        if (left, held) in dead_ends or len(dead_ends) > SEARCH_LIMIT:
            return None
        for index in left:
            if objection(passes[index], held) is None:
                after = set(held)
                update(after, passes[index])
                rest = search(tuple(i for i in left if i != index), frozenset(after))
                if rest is not None:
                    return [passes[index], *rest]
        dead_ends.add((left, held))
        return None

    return search(tuple(range(len(passes))), frozenset(properties))


def _makers(properties: Sequence[str]) -> list[str]:
    """The names of registered passes that establish one of the properties. Only asked for a message."""
    from graphopt.passmanager.registry import registry

    found = []
    for name in registry.names():
        try:
            factory = registry.factory(name)
        except PassError:
            continue
        if set(getattr(factory, "establishes", ())) & set(properties):
            found.append(name)
    return found


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))
