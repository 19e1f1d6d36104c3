"""Options of pruning that are seen to be wrong without a graph: one clear error each."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from graphopt.errors import GraphOptError


def share(name: str, given: Any) -> float:
    """A share of channels to remove: at least 0 and below 1.

    Raises:
        GraphOptError: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, Real) or not 0 <= float(given) < 1:
        hint = "; at 1 nothing would be left" if _is_one(given) else ""
        raise GraphOptError(f"{name} is a share of channels to remove, at least 0 and below 1, got {given!r}{hint}")
    return float(given)


def _is_one(given: Any) -> bool:
    return isinstance(given, Real) and given == 1


def kept_share(name: str, given: Any) -> float:
    """A share of the original to keep: above 0 and at most 1.

    Raises:
        GraphOptError: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, Real) or not 0 < float(given) <= 1:
        raise GraphOptError(f"{name} is the share of the original to keep, above 0 and at most 1, got {given!r}")
    return float(given)


def whole(name: str, given: Any, least: int = 1) -> int:
    """A whole number.

    Raises:
        GraphOptError: it is none, or below the least.
    """
    number = index(given)
    if number is None or number < least:
        text = f"{name} must be at least {least}" if number is not None else f"{name} must be a whole number"
        raise GraphOptError(f"{text}, got {given!r}")
    return number


def index(given: Any) -> int | None:
    """A whole number of any type, or None."""
    if isinstance(given, bool):
        return None
    try:
        return operator.index(given)
    except TypeError:
        return None


def by_name(name: str, given: Any, example: str) -> dict[str, Any]:
    """A mapping of names.

    Raises:
        GraphOptError: it is none.
    """
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise GraphOptError(f"{name} maps names (or globs) of parameters or modules, as {example}, got {given!r}")
    return dict(given)


def names(name: str, given: Any) -> tuple[str, ...]:
    """One name, or several.

    Raises:
        GraphOptError: something else.
    """
    found = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    if not all(isinstance(one, str) for one in found):
        raise GraphOptError(f"{name} takes names, got {given!r}")
    return found


def shares(name: str, given: Any) -> tuple[float, ...]:
    """Several shares of channels to remove.

    Raises:
        GraphOptError: something else.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise GraphOptError(f"{name} takes several shares of channels to remove, as (0.25, 0.5, 0.75), got {given!r}")
    return tuple(share(name, one) for one in given)


def channels(pattern: str, given: Any) -> tuple[int, ...]:
    """The indices of channels.

    Raises:
        GraphOptError: something else.
    """
    found = None if isinstance(given, str) or not isinstance(given, Iterable) else [index(one) for one in given]
    if found is None or any(one is None for one in found):
        raise GraphOptError(f"channels of {pattern!r} are whole numbers, as (3, 5), got {given!r}")
    return tuple(one for one in found if one is not None)
