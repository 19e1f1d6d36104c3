"""Names with `*`, `?` and `[…]`, as options of passes take them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import filter as matching
from fnmatch import fnmatchcase

from graphopt.errors import unknown_name
from graphopt.ir import Node


def check_globs(globs: Iterable[str], known: Collection[str], kind: str, hint: str) -> None:
    """Refuse what fits none of the known names. kind: of what has the names. hint: says where it was given.

    Raises:
        UnknownNameError: it suggests near names.
    """
    for glob in globs:
        if not matching(known, glob):
            raise unknown_name(kind, glob, known, hint)


def first_fitting(globs: Iterable[str], names: Collection[str]) -> str | None:
    """The first that fits one of the names of a thing, or None."""
    return next((glob for glob in globs if any(fnmatchcase(name, glob) for name in names)), None)


def names_of(node: Node) -> list[str]:
    """What a node goes by: its operator, its result and its module."""
    return [node.name, node.op.base, node.op.base.partition(".")[2], node.results[0].name, node.location.scope]
