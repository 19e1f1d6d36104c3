"""The channel analysis of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphopt.analysis.channels.explain import explain
from graphopt.analysis.channels.groups import Assembler
from graphopt.analysis.channels.model import FrozenDim, Group
from graphopt.analysis.channels.removal import Removal
from graphopt.analysis.channels.rules import apply
from graphopt.analysis.channels.tracker import Tracker, run
from graphopt.errors import unknown_name
from graphopt.ir import Graph


class ChannelAnalysis:
    """Which channels of a graph can be removed, and what is tied to each.

    >>> from graphopt.ops import parse
    >>> g = parse('''input %x: f32[N, 16]
    ... parameter %w: f32[8, 16]
    ... parameter %v: f32[4, 8]
    ... %y = aten.linear(%x, %w)
    ... %z = aten.relu(%y)
    ... %o = aten.linear(%z, %v)
    ... return %o''')
    >>> analysis = ChannelAnalysis(g)
    >>> analysis.groups
    [<group w: 8 channels, 2 members>]
    >>> [(m.name, m.dim, m.role.value) for m in analysis.groups[0].members]
    [('w', 0, 'out'), ('v', 1, 'in')]
    >>> removal = analysis.removed({"w": [True] * 3 + [False] * 5})
    >>> {(value.name, dim): list(map(int, kept)) for (value, dim), kept in removal.kept.items()}
    {('w', 0): [3, 4, 5, 6, 7], ('y', 1): [3, 4, 5, 6, 7], ('z', 1): [3, 4, 5, 6, 7], ('v', 1): [3, 4, 5, 6, 7]}
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tracker = Tracker(graph)
        run(self.tracker, apply)
        self._assembler = Assembler(self.tracker)

    @cached_property
    def groups(self) -> list[Group]:
        """The groups with at least two channels, of which one may go, in graph order."""
        return self._assembler.groups()

    @cached_property
    def frozen(self) -> list[FrozenDim]:
        """The dims that parameters make and that can't be pruned, or not fully, with the reason."""
        return list(self._assembler.frozen())

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def group(self, name: str) -> Group:
        """Return the group of that name.

        Raises:
            UnknownNameError: no such group; the message suggests near names.
        """
        found = self._by_name.get(name)
        if found is None:
            raise unknown_name("group of channels", name, self._by_name)
        return found

    def removed(self, selection: Mapping[str, ArrayLike]) -> Removal:
        """Return what goes and what stays if the chosen channels are removed.

        selection: a bool array of `group.size` entries by group name; True removes the channel.

        Raises:
            UnknownNameError: no such group.
            GraphOptError: a mask of the wrong size, or a dim that would lose all its slots.
        """
        return Removal(self, selection)

    def explain(self, what: str | Group) -> str:
        """Return in words what a group or a parameter is tied to, by which nodes, and what of it can't be removed.

        what: a group, or the name of a group or parameter.

        Raises:
            UnknownNameError: neither a group nor a parameter of that name.
        """
        return explain(self, what if isinstance(what, str) else what.name)

    def resolve(self, atoms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the removable atoms that each slot of an array hangs on, 0 where there are fewer."""
        return self._assembler.resolve(atoms)
