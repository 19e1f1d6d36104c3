"""The engines by name: those registered in this process, and the entry points of the group `graphopt.engines`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.errors import GraphOptError, TargetError, unknown_name
from graphopt.targets.engine import Engine

GROUP = "graphopt.engines"

EngineFactory = Callable[..., Engine]
"""Makes an engine from its options; an engine's class is one."""

_registered: dict[str, EngineFactory] = {}


def register_engine(name: str, factory: EngineFactory) -> None:
    """Let `get_engine(name)` make an engine. A registered name goes before an entry point of the same name.

    Raises:
        GraphOptError: the name is registered already.
    """
    if name in _registered:
        raise GraphOptError(f"engine {name!r} is registered already; choose another name")
    _registered[name] = factory


def get_engine(name: str, **options: Any) -> Engine:
    """Make the engine called `name`. Whether it can run on this machine is for `Engine.missing()` to say.

    options: passed to the engine's class.

    Raises:
        UnknownNameError: no such engine; the message suggests near names.
        TargetError: the engine's entry point does not load, or it does not take the options.

    >>> get_engine("eager").name
    'eager'
    """
    factory = _registered.get(name) or _load(name)
    try:
        engine = factory(**options)
    except TypeError as error:
        raise TargetError(f"engine {name!r} cannot be made with options {sorted(options)}: {error}") from error
    if not isinstance(engine, Engine):
        raise TargetError(f"{factory!r}, registered as engine {name!r}, makes no graphopt Engine")
    return engine


def engine_names() -> tuple[str, ...]:
    """Return the names of all known engines, sorted."""
    return tuple(sorted({*_registered, *_entry_points()}))


def _load(name: str) -> EngineFactory:
    entries = _entry_points()
    if name not in entries:
        known = engine_names()
        raise unknown_name("engine", name, known, f"Known engines: {', '.join(known)}.")
    try:
        factory: EngineFactory = entries[name].load()
    except Exception as error:
        raise TargetError(f"engine {name!r} does not load from {entries[name].value!r}: {error}") from error
    return factory


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP)}
