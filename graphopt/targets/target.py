"""Targets: what a model is compiled for. Third parties add theirs through the entry-point group `graphopt.targets`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from graphopt.errors import TargetError, unknown_name

GROUP = "graphopt.targets"


@dataclass(frozen=True)
class Target:
    """What a model is compiled for.

    engines: candidates that may run the result; with several, the fastest on the sample inputs is taken. Without
        any, the result is an FX module that the caller owns.
    trainable: whether the result is meant to be trained; batch norms then stay, dropout too.
    width_multiple: what the widths of layers are best multiples of, since kernels compute so many channels at once.
    """

    name: str
    description: str
    engines: tuple[str, ...] = ()
    trainable: bool = False
    width_multiple: int = 8


def get_target(name: str | Target) -> Target:
    """Return a target by name (a `Target` is returned as it is).

    Raises:
        UnknownNameError: no such target; the message suggests near names.
        TargetError: a third party's entry point does not load.

    >>> get_target("fx").trainable
    True
    """
    if isinstance(name, Target):
        return name
    known = _entry_points()
    if name not in known:
        raise unknown_name("target", name, known, f"Known targets: {', '.join(sorted(known))}.")
    try:
        target = known[name].load()
    except Exception as error:
        raise TargetError(f"target {name!r} does not load from {known[name].value!r}: {error}") from error
    if not isinstance(target, Target):
        raise TargetError(f"entry point {known[name].value!r} of target {name!r} is no graphopt Target")
    return target


def target_names() -> tuple[str, ...]:
    """Return the names of all installed targets, sorted."""
    return tuple(sorted(_entry_points()))


def _entry_points() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
