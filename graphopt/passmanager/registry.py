"""Passes by name: those registered in code, and those of installed packages (entry points `graphopt.passes`).

An entry point `name = "module:attribute"` names a `Pass` class, a pass, or a function that returns a pass. Names are
listed without importing anything; a module is imported when one of its passes is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from graphopt.errors import GraphOptError, PassError, unknown_name
from graphopt.passmanager.base import FunctionPass, Pass, as_pass, kebab_case
from graphopt.passmanager.pipeline import Fixpoint, Pipeline
from graphopt.rewrite import Rule

GROUP = "graphopt.passes"
OWNER = "graphopt"

Factory = type[Pass] | Pass | Callable[..., Pass]
F = TypeVar("F", bound=Any)


class PassRegistry:
    """Factories by pass name."""

    def __init__(self) -> None:
        self._registered: dict[str, Factory] = {"fixpoint": Fixpoint, "pipeline": Pipeline}
        self._entries: dict[str, EntryPoint] | None = None

    def register(self, factory: Factory | Rule, name: str | None = None) -> None:
        """Add a pass under `name` (by default its own).

        Raises:
            GraphOptError: the name is taken by another pass.
        """
        if isinstance(factory, Rule):
            factory = as_pass(factory)
        key = name or factory_name(factory)
        taken = self._registered.get(key)
        if taken is not None and taken is not factory:
            raise GraphOptError(f"pass {key!r} is registered already; choose another name")
        self._registered[key] = factory

    def is_installed(self, name: str) -> bool:
        """True for a pass of this package, or of another installed one, which needs no import to be known."""
        return name in self._entry_points() or self._registered.get(name) in (Fixpoint, Pipeline)

    def unregister(self, name: str) -> None:
        """Forget a pass that was registered in code."""
        self._registered.pop(name, None)

    def factory(self, name: str) -> Factory:
        """Return what makes the pass `name`.

        Raises:
            UnknownNameError: no such pass; the message suggests near names.
            PassError: an installed package's pass does not load.
        """
        found = self._registered.get(name)
        if found is None:
            entry = self._entry_points().get(name)
            if entry is None:
                raise unknown_name("pass", name, self.names())
            found = self._registered[name] = _load(entry)
        return found

    def names(self) -> tuple[str, ...]:
        """The names of all passes, sorted. Imports nothing."""
        return tuple(sorted({*self._registered, *self._entry_points()}))

    def refresh(self) -> None:
        """Look at the installed packages anew."""
        self._entries = None

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._entries is None:
            self._entries = _collect(entry_points(group=GROUP))
        return self._entries


def _collect(found: Any) -> dict[str, EntryPoint]:
    """Entries by name. The product's own passes come first, so a plug-in cannot replace one by accident."""
    by_name: dict[str, EntryPoint] = {}
    for entry in sorted(found, key=lambda e: (_distribution(e) != OWNER, e.name, e.value)):
        by_name.setdefault(entry.name, entry)
    return by_name


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def _load(entry: EntryPoint) -> Factory:
    try:
        loaded = entry.load()
    except Exception as error:
        package = _distribution(entry) or "a package"
        remedy = f"repair or uninstall {package}"
        raise PassError(
            f"pass {entry.name!r} of {package} does not load from {entry.value!r}: {error}; {remedy}"
        ) from error
    if isinstance(loaded, Rule):
        return as_pass(loaded)
    if not callable(loaded):
        raise PassError(f"entry point {entry.value!r} of pass {entry.name!r} is neither a pass nor makes one")
    return loaded


def factory_name(factory: Factory) -> str:
    """The name that a factory goes by."""
    name = getattr(factory, "name", "")
    return name if isinstance(name, str) and name else kebab_case(getattr(factory, "__name__", "pass"))


registry = PassRegistry()


def register_pass(factory: F | None = None, *, name: str | None = None) -> Any:
    """Register a pass class, a pass, a rule, or a function that makes a pass; also usable as a decorator.

    >>> from graphopt.passmanager import Pass, get_pass, register_pass
    >>> from dataclasses import dataclass
    >>> @register_pass(name="doc-example")
    ... @dataclass(frozen=True)
    ... class Example(Pass):
    ...     ratio: float = 0.5
    >>> get_pass("doc-example", ratio=0.25)
    Example(ratio=0.25)
    >>> registry.unregister("doc-example")
    """

    def add(given: F) -> F:
        registry.register(given, name)
        return given

    return add if factory is None else add(factory)


def get_pass(name: str, **options: Any) -> Pass:
    """Return the pass registered under `name`, with options.

    Raises:
        UnknownNameError: no such pass or option.
    """
    from graphopt.passmanager.options import check_names

    factory = registry.factory(name)
    check_names(factory, name, options)
    return make(factory, options)


def make(factory: Factory, options: dict[str, Any]) -> Pass:
    """Call a factory with options that fit it."""
    if isinstance(factory, FunctionPass):
        return factory.with_options(**options) if options else factory
    if isinstance(factory, Pass):
        return factory
    made = factory(**options)
    if not isinstance(made, Pass):
        raise PassError(f"{factory!r} made {made!r}, which is no pass")
    return made


def pass_names() -> tuple[str, ...]:
    """The names of all passes, sorted. Imports nothing."""
    return registry.names()
