"""From atoms to groups: which atoms are channels, which of them compete, and what hangs on each."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from graphopt.analysis.channels.atoms import Ids
from graphopt.analysis.channels.model import Channels, FrozenDim, Group, GroupAxis, Member, Need
from graphopt.analysis.channels.tracker import Role, Tracker
from graphopt.ir import ConstantKind, Value

_PRECEDENCE = (Role.OUT, Role.SCALE, Role.SHIFT, Role.NORMALIZED, Role.SLICE, Role.IN)


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
            if self.role(source).makes and (rows := self.source_atoms(source)) is not None:
                made[rows] = True
        made[0] = False
        component = self._components(made)
        order = np.flatnonzero(made)
        roots, numbers = np.unique(component[order], return_inverse=True)
        sort = np.argsort(numbers, kind="stable")
        order, numbers = order[sort], numbers[sort]
        group, index = np.full(self.atoms.count, -1), np.full(self.atoms.count, -1)
        group[order] = numbers
        index[order] = np.arange(len(order)) - np.searchsorted(numbers, np.arange(len(roots)))[numbers]
        return group, index, len(roots)

    def _components(self, made: np.ndarray) -> Ids:
        """Atoms of one block compete: blocks of rows first; scales and shifts join only what has no rows.

        Atoms that a split bound to rows and columns don't: these compete in blocks of their own.
        """
        union = np.arange(self.atoms.count)
        strong = np.zeros(self.atoms.count, bool)
        weak: list[Ids] = []
        for block in self.tracker.blocks:
            atoms = self.atoms.free(block.atoms)
            atoms = atoms[made[atoms]]
            if not atoms.size:
                continue
            if block.source is None or self.role(block.source) is Role.OUT:
                _join(union, atoms)
                strong[atoms] = True
            elif self.role(block.source).makes:
                weak.append(atoms)
        for column in weak:
            column = column[~strong[column]]
            if column.size:
                _join(union, column)
        return _roots(union, np.arange(len(union)))

    # ------------------------------------------------------------------ what hangs on them

    def groups(self) -> list[Group]:
        """All groups of which a channel may go, in the order of the first parameter that makes their channels."""
        group, index, count = self.channel_groups()
        members, axes, needs = self._members(group, index), self._axes(group, index), self._needs(group)
        order = np.flatnonzero(group >= 0)
        order = order[np.argsort(group[order], kind="stable")]
        atoms = np.split(order, np.searchsorted(group[order], np.arange(1, count)))
        position = self._positions()
        heads = []
        for number in range(count):
            if len(atoms[number]) > len({int(a.channels[0]) for a in axes[number] if len(a.channels) == 1}):
                first = min(_makers(members[number]), key=lambda m: (position[m.constant], m.factor))
                place = position[first.constant], first.factor, int(atoms[number][0])
                heads.append((place, number, first.name))
        heads.sort()
        names = _unique([name for _, _, name in heads])
        result = []
        for name, (_, number, _) in zip(names, heads):
            ordered = tuple(sorted(members[number], key=lambda m: position[m.constant]))
            fingerprint = self._fingerprint(ordered, needs[number])
            size = len(atoms[number])
            result.append(
                Group(name, size, ordered, tuple(axes[number]), tuple(needs[number]), fingerprint, atoms[number])
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
                found[number].append(Member(value, _name(value), dim, self.role(source), channels, factor=factor))
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

    def _fingerprint(self, members: tuple[Member, ...], needs: list[Need]) -> str:
        """A hash of what uses the members and how, in order: isomorphic groups have the same at any size."""
        parts = [f"{self._use(m)} {m.dim} of {len(m.constant.shape)}" for m in members]
        parts += [need.kind for need in needs]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _use(self, member: Member) -> str:
        node = self.tracker.roles.get((member.constant, member.dim), {}).get(member.role)
        return f"{member.role.value} {node.op.base if node else ''}"

    # ------------------------------------------------------------------ what can't go

    def frozen(self) -> Iterator[FrozenDim]:
        """The dims that parameters make and that hold slots which can't be removed; and parameters none of whose dims
        makes channels or loses any."""
        listed = set()
        for found in self._fixed_rows():
            listed.add(found.value)
            yield found
        for value in self.tracker.graph.constants.values():
            if value not in listed and value in self.tracker.values and len(value.shape) > 1:
                yield from self._idle(value)

    def _fixed_rows(self) -> Iterator[FrozenDim]:
        for value, dim in self.sources:
            if self.role((value, dim)) is not Role.OUT:
                continue
            axis = self.tracker.values[value][dim]
            if not axis or axis[0].atoms is None:
                continue
            fixed = (self.resolve(axis[0].atoms) > 0).sum(1) == 0
            if fixed.any():
                reasons = self.atoms.reason_of(axis[0].atoms)[fixed]
                text, node = self.atoms.reasons[int(reasons[0])]
                yield FrozenDim(value, _name(value), dim, int(fixed.sum()), len(fixed), text, node)

    def _idle(self, value: Value) -> Iterator[FrozenDim]:
        """The first dim of a parameter of which nothing can be removed."""
        if value.constant is None or value.constant.kind is not ConstantKind.PARAMETER:
            return
        found: list[FrozenDim] = []
        for dim, axis in enumerate(self.tracker.values[value]):
            if not axis:
                continue
            reasons = [axis[0].reason] if axis[0].atoms is None else self.atoms.reason_of(axis[0].atoms)
            if axis[0].atoms is not None and self.resolve(axis[0].atoms).any():
                return
            text, node = self.atoms.reasons[int(reasons[0])]
            size = value.shape[dim]
            assert isinstance(size, int)
            found.append(FrozenDim(value, _name(value), dim, size, size, text, node))
        yield from found[:1]


def _name(value: Value) -> str:
    return value.constant.names[0] if value.constant and value.constant.names else value.name


def _makers(members: list[Member]) -> list[Member]:
    return [m for m in members if m.role is Role.OUT] or [m for m in members if m.role.makes]


def _unique(names: list[str]) -> list[str]:
    """Number the names that occur several times."""
    counts = Counter(names)
    seen: dict[str, int] = defaultdict(int)
    result = []
    for name in names:
        result.append(name if counts[name] == 1 else f"{name}:{seen[name]}")
        seen[name] += 1
    return result


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
