"""Groups by name and by kind of layer, as options name them.

A pattern names parameters (`layer1.0.conv1.weight`) or modules (`layer1.0.conv1`, `layer1`), with `*`, `?` and `[…]`.
It matches a group if the group prunes the *outputs* of what is named; that its inputs shrink along is not asked. The
name of a group (`q.weight:0`) means that group alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from graphopt.analysis.channels import Group
from graphopt.errors import GraphOptError, unknown_name
from graphopt.ir import ConstantKind, Graph


def matching(graph: Graph, groups: Sequence[Group], pattern: str) -> list[Group]:
    """Return the groups that a pattern names; there may be none, where what it names is not prunable.

    Raises:
        UnknownNameError: nothing in the graph has such a name; the message suggests near ones.
    """
    own = [group for group in groups if ":" in pattern and group.name == pattern]
    if own:
        return own
    known = [name for value in graph.constants.values() if value.constant for name in value.constant.names]
    if not any(matches(pattern, name) for name in known):
        modules = {name.rpartition(".")[0] for name in known} - {""}
        raise unknown_name("name", pattern, [*known, *sorted(modules)], "No parameter or module is called so.")
    return [group for group in groups if any(matches(pattern, name) for name in _outputs(group))]


def matches(pattern: str, name: str) -> bool:
    """True if a pattern names a parameter, or a module that holds it.

    >>> [matches(pattern, "layer1.conv1.weight") for pattern in ("layer1", "*.conv?", "conv1")]
    [True, True, False]
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name, pattern + ".*")


def of_type(graph: Graph, groups: Sequence[Group], type_name: str) -> list[Group]:
    """Return the groups that prune the outputs of a kind of layer: `Linear`, `Conv2d`, `LayerNorm`, `lstm`, …

    Raises:
        UnknownNameError: no layer with parameters is of that kind; the message suggests near ones.
    """
    kinds = {
        use.node.op.base.rpartition(".")[2]
        for value in graph.constants.values()
        if value.constant is not None and value.constant.kind is ConstantKind.PARAMETER
        for use in value.uses
        if use.node.results
    }
    if not any(_is_kind(type_name, kind) for kind in kinds):
        raise unknown_name("type of layer", type_name, sorted(kinds), f"The model has {', '.join(sorted(kinds))}.")
    return [group for group in groups if any(_is_kind(type_name, kind) for kind in _output_kinds(group))]


def by_pattern(graph: Graph, groups: Sequence[Group], given: Mapping[str, float], what: str) -> dict[str, float]:
    """Return the number of each group that a pattern gives one to; the first pattern that matches decides.

    Raises:
        UnknownNameError: a pattern that names nothing.
        GraphOptError: one that names nothing prunable.
    """
    found: dict[str, float] = {}
    for pattern, number in given.items():
        named = matching(graph, groups, pattern)
        if not named:
            raise GraphOptError(f"{what} names {pattern!r}, whose outputs cannot be pruned (or are ignored)")
        for group in named:
            found.setdefault(group.name, number)
    return found


def _outputs(group: Group) -> Iterable[str]:
    """The names of the parameters whose outputs a group prunes."""
    for member in group.members:
        if member.role.makes and member.constant.constant is not None:
            yield from member.constant.constant.names


def _output_kinds(group: Group) -> set[str]:
    return {
        use.node.op.base.rpartition(".")[2]
        for member in group.members
        if member.role.makes
        for use in member.constant.uses
        if use.node.results
    }


def _is_kind(type_name: str, kind: str) -> bool:
    """True if a module's class name, or an operator's, means an operator: `BatchNorm2d` is `batch_norm`."""
    plain, wanted = kind.replace("_", ""), type_name.lower().replace("_", "").replace("-", "")
    return wanted == plain or re.sub(r"\dd$", "", wanted) == plain
