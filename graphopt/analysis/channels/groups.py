"""From atoms to groups: which atoms are channels, which of them compete, and what hangs on each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from graphopt.analysis.channels.atoms import Ids
from graphopt.analysis.channels.model import Channels, FrozenDim, Group, GroupAxis, Member, Need
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import Value

_PRECEDENCE = (Role.OUT, Role.SCALE, Role.SHIFT, Role.SLICE, Role.IN)


class Assembler:
    """Builds the groups of a finished walk."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.atoms = tracker.atoms
        self.sources = [(v, d) for v in tracker.values if v.constant is not None for d in range(len(v.shape))]
        self._resolved: dict[int, Ids] = {}

    def role(self, source: tuple[Value, int]) -> Role:
        """The role of a constant's dim: the one that the masked model zeroes, if it has several."""
        played = self.tracker.roles.get(source, {})
        return next((r for r in _PRECEDENCE if r in played), Role.SLICE)

    def resolve(self, atoms: Ids) -> Ids:
        """Resolve, once for each array."""
        found = self._resolved.get(id(atoms))
        if found is None:
            found = self._resolved[id(atoms)] = self.atoms.resolve(atoms)
        return found

    def source_atoms(self, source: tuple[Value, int]) -> Ids | None:
        """The free atoms of a constant's dim."""
        value, dim = source
        axis = self.tracker.values[value][dim]
        if not axis or axis[0].atoms is None:
            return None
        return self.resolve(axis[0].atoms)

    # ------------------------------------------------------------------ which atoms are channels

    def channel_groups(self) -> tuple[Channels, Channels, int]:
        """For each atom: the number of its group (-1: no channel) and its index in there; and the number of groups."""
        made = np.zeros(self.atoms.count, bool)
        for source in self.sources:
            if self.role(source).zeroed and (rows := self.source_atoms(source)) is not None:
                made[rows] = True
        made[0] = False
        component = self._components(made)
        group = np.full(self.atoms.count, -1)
        index = np.full(self.atoms.count, -1)
        order = np.flatnonzero(made)
        roots, numbers = np.unique(component[order], return_inverse=True)
        group[order] = numbers.reshape(-1)
        for number in range(len(roots)):
            members = order[numbers.reshape(-1) == number] if len(roots) < 2 else None
            if members is not None:
                index[members] = np.arange(len(members))
        if len(roots) >= 2:
            sort = np.argsort(numbers.reshape(-1), kind="stable")
            starts = np.searchsorted(numbers.reshape(-1)[sort], np.arange(len(roots)))
            index[order[sort]] = np.arange(len(order)) - starts[numbers.reshape(-1)[sort]]
        return group, index, len(roots)

    def _components(self, made: np.ndarray) -> Ids:
        """Atoms of one block compete: blocks of rows first; scales and shifts join only what has no rows."""
        union = np.arange(self.atoms.count)
        strong = np.zeros(self.atoms.count, bool)
        weak: list[Ids] = []
        for block in self.tracker.blocks:
            atoms = self.atoms.resolve(block.atoms)
            for column in atoms.T:
                column = column[made[column]]
                if not column.size:
                    continue
                if block.source is None or self.role(block.source) is Role.OUT:
                    _join(union, column)
                    strong[column] = True
                elif self.role(block.source).zeroed:
                    weak.append(column)
        for column in weak:
            column = column[~strong[column]]
            if column.size:
                _join(union, column)
        return _roots(union, np.arange(len(union)))

    # ------------------------------------------------------------------ what hangs on them

    def groups(self) -> list[Group]:
        """All groups, in the order of the first parameter that makes their channels."""
        group, index, count = self.channel_groups()
        members = self._members(group, index)
        axes = self._axes(group, index)
        needs = self._needs(group)
        atoms = [np.flatnonzero(group == -2)] * count
        order = np.flatnonzero(group >= 0)
        order = order[np.argsort(group[order], kind="stable")]
        bounds = np.searchsorted(group[order], np.arange(count + 1))
        for number in range(count):
            atoms[number] = order[bounds[number] : bounds[number + 1]]
        position = self._positions()
        heads = []
        for number in range(count):
            makers = [m for m in members[number] if m.role is Role.OUT] or [m for m in members[number] if m.role.zeroed]
            first = min(makers, key=lambda m: position[m.constant])
            smallest = min((len(a.channels) for a in axes[number]), default=len(atoms[number]))
            if len(atoms[number]) > 1 and smallest > 1:
                heads.append((position[first.constant], int(atoms[number][0]), number, first.name))
        heads.sort()
        shared: dict[str, int] = defaultdict(int)
        for *_, name in heads:
            shared[name] += 1
        seen: dict[str, int] = defaultdict(int)
        result = []
        for *_, number, name in heads:
            unique = name
            if shared[name] > 1:
                unique = f"{name}:{seen[name]}"
                seen[name] += 1
            ordered = tuple(sorted(members[number], key=lambda m: position[m.constant]))
            result.append(
                Group(
                    unique,
                    len(atoms[number]),
                    ordered,
                    tuple(axes[number]),
                    tuple(needs[number]),
                    self._fingerprint(ordered, needs[number]),
                    atoms[number],
                )
            )
        return result

    def _positions(self) -> dict[Value, int]:
        """The order in which nodes first use the constants."""
        found: dict[Value, int] = {}
        for node in self.tracker.graph:
            for value in node.inputs:
                if value.constant is not None:
                    found.setdefault(value, len(found))
        for value, _ in self.sources:
            found.setdefault(value, len(found))
        return found

    def _members(self, group: Channels, index: Channels) -> dict[int, list[Member]]:
        found: dict[int, list[Member]] = defaultdict(list)
        for source in self.sources:
            rows = self.source_atoms(source)
            if rows is None:
                continue
            value, dim = source
            for factor, (number, channels) in enumerate(_by_group(rows, group, index)):
                name = value.constant.names[0] if value.constant and value.constant.names else value.name
                found[number].append(Member(value, name, dim, self.role(source), channels, factor=factor))
        return found

    def _axes(self, group: Channels, index: Channels) -> dict[int, list[GroupAxis]]:
        found: dict[int, list[GroupAxis]] = defaultdict(list)
        seen: set[tuple[int, bytes]] = set()
        visited: set[int] = set()
        for value, axes in self.tracker.values.items():
            for dim, axis in enumerate(axes):
                for factor in axis:
                    if factor.atoms is None or id(factor.atoms) in visited:
                        continue
                    visited.add(id(factor.atoms))
                    for column in self.resolve(factor.atoms).T:
                        numbers = group[column]
                        if numbers[0] < 0 or (numbers != numbers[0]).any():
                            continue
                        channels = np.unique(index[column])
                        key = int(numbers[0]), channels.tobytes()
                        if key not in seen:
                            seen.add(key)
                            found[key[0]].append(GroupAxis(value, dim, channels))
        return found

    def _needs(self, group: Channels) -> dict[int, list[Need]]:
        found: dict[int, list[Need]] = defaultdict(list)
        for care in self.tracker.cares:
            numbers = np.unique(group[self.resolve(care.atoms)])
            for number in numbers[numbers >= 0]:
                found[int(number)].append(Need(care.kind, care.node, care.value, care.dim))
        return found

    @staticmethod
    def _fingerprint(members: tuple[Member, ...], needs: list[Need]) -> str:
        parts = [f"{m.role.value} {m.dim} of {len(m.constant.shape)}" for m in members]
        parts += [need.kind for need in needs]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    # ------------------------------------------------------------------ what can't go

    def frozen(self) -> Iterator[FrozenDim]:
        """The dims that parameters make and that hold slots which can't be removed."""
        for value, dim in self.sources:
            if self.role((value, dim)) is not Role.OUT:
                continue
            axis = self.tracker.values[value][dim]
            if not axis or axis[0].atoms is None:
                continue
            fixed = ~(self.resolve(axis[0].atoms) > 0).any(1)
            if fixed.any():
                reasons = self.atoms.reason_of(axis[0].atoms)[fixed]
                text, node = self.atoms.reasons[int(reasons[0])]
                name = value.constant.names[0] if value.constant and value.constant.names else value.name
                yield FrozenDim(value, name, dim, int(fixed.sum()), len(fixed), text, node)


def _by_group(rows: Ids, group: Channels, index: Channels) -> Iterator[tuple[int, Channels]]:
    """The channels of each slot, one array for each column and group."""
    for column in rows.T:
        numbers = group[column]
        for number in np.unique(numbers[numbers >= 0]):
            yield int(number), np.where(numbers == number, index[column], -1)


def _join(union: Ids, atoms: Ids) -> None:
    roots = _roots(union, atoms)
    union[roots] = roots.min()


def _roots(union: Ids, atoms: Ids) -> Ids:
    root = union[atoms]
    while True:
        above = union[root]
        if np.array_equal(above, root):
            union[atoms] = root
            return root
        root = above
