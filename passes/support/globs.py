"""Names with `*`, `?` and `[…]`, as options of passes take them.

What was made of several things goes by the names of all: `attention.query+key+value.weight`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import filter as matching
from fnmatch import fnmatchcase
from itertools import product

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
    base, scope = node.op.base, node.location.scope
    return [node.name, base, base.partition(".")[2], node.results[0].name, *dict.fromkeys((scope, *parted(scope)))]


def joined(names: Sequence[str]) -> str:
    """One name for what was made of several things: theirs, if those differ in one part alone, else the first.

    >>> joined(["layer.0.query.weight", "layer.0.key.weight"]), joined(["a.b", "c.d"])
    ('layer.0.query+key.weight', 'a.b')
    """
    split = [name.split(".") for name in names]
    if len({len(parts) for parts in split}) != 1:
        return names[0]
    columns = [list(dict.fromkeys(column)) for column in zip(*split)]
    differing = [column for column in columns if len(column) > 1]
    if len(differing) > 1 or any(len(column) != len(names) for column in differing):
        return names[0]
    return ".".join("+".join(column) for column in columns)


def parted(name: str) -> list[str]:
    """The names that `joined` made one of.

    >>> parted("layer.0.query+key.weight")
    ['layer.0.query.weight', 'layer.0.key.weight']
    """
    return [".".join(parts) for parts in product(*(part.split("+") for part in name.split(".")))]
