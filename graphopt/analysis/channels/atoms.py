"""Atoms: equivalence classes of slots that live or die together.

A union-find over integers in numpy arrays, with two additions. An atom may be *bound* to a pair of atoms: it is removed
iff one of them is, so a dim that is split into rows and columns has atoms bound to (row, column). An atom may be
*frozen*, with a reason: it is never removed. Atom 0 stands for "nothing to remove".

A slot's atoms are a row of an array: the slot is removed iff one of the atoms in the row is. All operations take whole
arrays and cost O(slots).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphopt.ir import Node

Ids = NDArray[np.int64]

_ROUNDS = 64


class Atoms:
    """The union-find. `operations` counts array elements touched, for tests of complexity."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._left = np.zeros(1024, np.int64)
        self._right = np.zeros(1024, np.int64)
        self._reason = np.zeros(1024, np.int64)
        self.count = 1
        self.reasons: list[tuple[str, Node | None]] = [("", None)]
        self._reason_ids: dict[tuple[str, Node | None], int] = {("", None): 0}
        self.operations = 0

    def fresh(self, size: int) -> Ids:
        """Return new atoms, one a slot."""
        start, end = self.count, self.count + size
        if end > len(self._parent):
            grown = max(end, 2 * len(self._parent))
            for name in ("_parent", "_left", "_right", "_reason"):
                array = np.zeros(grown, np.int64)
                array[: self.count] = getattr(self, name)[: self.count]
                setattr(self, name, array)
        ids = np.arange(start, end, dtype=np.int64)
        self._parent[start:end] = ids
        self.count = end
        return ids

    def reason(self, text: str, node: Node | None) -> int:
        """Return the number of a reason."""
        key = (text, node)
        found = self._reason_ids.get(key)
        if found is None:
            found = self._reason_ids[key] = len(self.reasons)
            self.reasons.append(key)
        return found

    def find(self, atoms: Ids) -> Ids:
        """Return the representatives."""
        root = self._parent[atoms]
        while True:
            self.operations += root.size
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[atoms] = root
        return root

    def resolve(self, atoms: Ids) -> Ids:
        """Return the free atoms that each slot depends on: rows of representatives, 0 where there are fewer.

        atoms: of shape (slots,) or (slots, k). Columns without any free atom are left out.
        """
        columns: list[Ids] = []
        for column in _rows(atoms).T:
            self._expand(column, columns)
        kept = [c for c in columns if c.any()]
        return np.stack(kept, axis=1) if kept else np.zeros((len(atoms), 0), np.int64)

    def _expand(self, column: Ids, columns: list[Ids]) -> None:
        column = self.find(column)
        left = self._left[column]
        bound = left > 0
        if bound.any():
            self._expand(np.where(bound, left, column), columns)
            self._expand(np.where(bound, self._right[column], 0), columns)
        else:
            columns.append(np.where(self._reason[column] > 0, 0, column))

    def free(self, atoms: Ids) -> Ids:
        """Return the representatives of those that are neither bound nor frozen."""
        roots = np.unique(self.find(atoms))
        return roots[(self._left[roots] == 0) & (self._reason[roots] == 0)]

    def reason_of(self, atoms: Ids) -> Ids:
        """Return for each slot the number of the reason why one of its atoms is frozen, or 0."""
        rows = _rows(atoms)
        found = np.zeros(len(rows), np.int64)
        pending = list(rows.T)
        while pending:
            column = self.find(pending.pop())
            found = np.where(found > 0, found, self._reason[column])
            left = self._left[column]
            if left.any():
                pending += [left, np.where(left > 0, self._right[column], 0)]
        return found

    def freeze(self, atoms: Ids, reason: int | Ids) -> None:
        """Mark atoms as never removed; those that are already keep their first reason."""
        flat = atoms.ravel()
        reasons = np.broadcast_to(np.asarray(reason), atoms.shape).ravel()
        while flat.size:
            roots = self.find(flat)
            roots, first = np.unique(roots, return_index=True)
            reasons = reasons[first]
            new = (roots > 0) & (self._reason[roots] == 0)
            roots, reasons = roots[new], reasons[new]
            self._reason[roots] = reasons
            bound = self._left[roots] > 0
            roots, reasons = roots[bound], reasons[bound]
            flat = np.concatenate([self._left[roots], self._right[roots]])
            reasons = np.concatenate([reasons, reasons])

    # ------------------------------------------------------------------ equations

    def equate(self, first: Ids, second: Ids, reason: int) -> None:
        """Make the slots of two dims live and die together, slot by slot.

        Rows of one atom each are united. A free atom against several is bound to them. A slot that can't be removed
        freezes its partner, with the partner's reason or else `reason`.
        """
        for _ in range(_ROUNDS):
            u, v = self._differences(first, second)
            u_count, v_count = (u > 0).sum(1), (v > 0).sum(1)
            unequal = (u_count > 0) | (v_count > 0)
            if not unequal.any():
                return
            if not self._settle_simple(first, second, u, v, u_count, v_count, reason):
                self._settle_products(u[unequal], v[unequal], reason)
        u, v = self._differences(first, second)
        self.freeze(u, reason)
        self.freeze(v, reason)

    def _differences(self, first: Ids, second: Ids) -> tuple[Ids, Ids]:
        """The free atoms of each slot on either side without those on both, compacted to the left."""
        u, v = self.resolve(first), self.resolve(second)
        if u.shape == v.shape and np.array_equal(u, v):
            return np.zeros((len(u), 0), np.int64), np.zeros((len(v), 0), np.int64)
        common_u, common_v = np.zeros(u.shape, bool), np.zeros(v.shape, bool)
        for i in range(u.shape[1]):
            for j in range(v.shape[1]):
                same = u[:, i] == v[:, j]
                common_u[:, i] |= same
                common_v[:, j] |= same
        return _compact(np.where(common_u, 0, u)), _compact(np.where(common_v, 0, v))

    def _settle_simple(self, first: Ids, second: Ids, u: Ids, v: Ids, u_count: Ids, v_count: Ids, reason: int) -> bool:
        """Settle the slots that one side never removes, and those of one atom on each side."""
        done = False
        for rows, left, given in (
            ((u_count == 0) & (v_count > 0), v, first),
            ((v_count == 0) & (u_count > 0), u, second),
        ):
            if rows.any():
                why = self.reason_of(given[rows])
                why = np.where(why > 0, why, reason)
                self.freeze(left[rows], np.repeat(why[:, None], left.shape[1], axis=1))
                done = True
        single = (u_count == 1) & (v_count == 1)
        if single.any():
            self._link(u[single, 0], v[single, 0])
            done = True
        return done

    def _settle_products(self, u: Ids, v: Ids, reason: int) -> None:
        """Slots of several atoms: bind a single atom to the others, or unite columns of the same pattern."""
        u_count, v_count = (u > 0).sum(1), (v > 0).sum(1)
        one_u, one_v = u_count == 1, v_count == 1
        if one_u.any() or one_v.any():
            heads = np.concatenate([u[one_u, 0], v[one_v, 0]])
            width = max(u.shape[1], v.shape[1])
            parts = np.concatenate([_widen(v[one_u], width), _widen(u[one_v], width)])
            self._bind(heads, parts, reason)
            return
        for i in range(u.shape[1]):
            for j in range(v.shape[1]):
                if _same_partition(u[:, i], v[:, j]):
                    self._link(u[:, i], v[:, j])
                    return
        for narrow, wide in ((u, v), (v, u)):
            for i in range(narrow.shape[1]):
                for start in range(wide.shape[1]):
                    for stop in range(start + 2, wide.shape[1] + 1):
                        if _same_partition(narrow[:, i], _labels(wide[:, start:stop])):
                            self._bind(narrow[:, i], wide[:, start:stop], reason)
                            return
        self._link(u[:, 0], v[:, 0])

    def _link(self, a: Ids, b: Ids) -> None:
        """Unite free atoms pairwise; the least representative stays."""
        while True:
            a, b = self.find(a), self.find(b)
            apart = a != b
            if not apart.any():
                return
            a, b = a[apart], b[apart]
            low, high = np.minimum(a, b), np.maximum(a, b)
            np.minimum.at(self._parent, high, low)

    def _bind(self, heads: Ids, parts: Ids, reason: int) -> None:
        """Bind each free atom to the atoms in its row (the first row that names it). Bindings never form a cycle."""
        heads, first = np.unique(heads, return_index=True)
        parts = _compact(parts[first])
        cyclic = np.isin(heads, parts)
        if cyclic.any():
            self.freeze(heads[cyclic], reason)
            self.freeze(parts[cyclic], reason)
            return
        for size in range(2, parts.shape[1] + 1):
            rows = (parts > 0).sum(1) == size
            if rows.any():
                self._bind_rows(heads[rows], parts[rows, :size])

    def _bind_rows(self, heads: Ids, parts: Ids) -> None:
        tail = parts[:, -1]
        for column in range(parts.shape[1] - 2, 0, -1):
            joint = self.fresh(len(heads))
            self._left[joint], self._right[joint] = parts[:, column], tail
            tail = joint
        self._left[heads], self._right[heads] = parts[:, 0], tail


def _rows(atoms: Ids) -> Ids:
    return atoms if atoms.ndim == 2 else atoms[:, None]


def _compact(rows: Ids) -> Ids:
    """Move the atoms of each row to the left and drop repeated ones and empty columns."""
    if rows.shape[1] > 1:
        rows = rows.copy()
        for i in range(1, rows.shape[1]):
            repeated = (rows[:, :i] == rows[:, i : i + 1]).any(1)
            rows[repeated, i] = 0
        order = np.argsort(rows == 0, axis=1, kind="stable")
        rows = np.take_along_axis(rows, order, axis=1)
    return rows[:, rows.any(0)] if rows.size else rows


def _widen(rows: Ids, width: int) -> Ids:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _labels(rows: Ids) -> Ids:
    """One label a row; equal rows have equal labels."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)


def _same_partition(a: Ids, b: Ids) -> bool:
    """True if two labellings of the slots group them alike."""
    count = len(np.unique(a))
    return count == len(np.unique(b)) == len(np.unique(np.stack([a, b], axis=1), axis=0))
