"""Splitting, aligning and reshaping dims: product structure is refined where a reshape asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from graphopt.analysis.channels.atoms import Atoms, Ids
from graphopt.analysis.channels.axes import Axis, Factor, axis_size, is_static, merged, quotient, same
from graphopt.ir import Dim

Fresh = Callable[[int], Ids]


class Regrouper:
    """Regroups factors. fresh: makes the atoms of a new row or column; reason: what conflicts are put down to."""

    def __init__(self, atoms: Atoms, fresh: Fresh, reason: int) -> None:
        self.atoms = atoms
        self.fresh = fresh
        self.reason = reason

    def split(self, factor: Factor, outer: Dim, inner: Dim) -> tuple[Factor, Factor]:
        """Split a dim into rows and columns: slot (i, j) is removed iff row i or column j is."""
        if factor.atoms is None:
            return replace(factor, size=outer), replace(factor, size=inner)
        assert isinstance(outer, int) and isinstance(inner, int)
        rows: list[Ids] = []
        columns: list[Ids] = []
        mixed: list[Ids] = []
        for atoms in self.atoms.resolve(factor.atoms).T:
            grid = atoms.reshape(outer, inner)
            if (grid == grid[:, :1]).all():
                rows.append(grid[:, 0])
            elif (grid == grid[:1]).all():
                columns.append(grid[0])
            else:
                mixed.append(atoms)
        if mixed:
            row, column = self.fresh(outer), self.fresh(inner)
            pairs = np.stack([np.repeat(row, inner), np.tile(column, outer)], axis=1)
            self.atoms.equate(np.stack(mixed, axis=1), pairs, self.reason)
            rows.append(row)
            columns.append(column)
        why = self._why(factor)
        return _factor(factor, outer, rows, why), _factor(factor, inner, columns, why)

    def _why(self, factor: Factor) -> int:
        if factor.atoms is None:
            return factor.reason
        found = self.atoms.reason_of(factor.atoms)
        return int(found.max(initial=0)) or self.reason

    def freeze(self, factors: Sequence[Factor], reason: int) -> None:
        """Nothing in these factors may be removed."""
        for factor in factors:
            if factor.atoms is not None:
                self.atoms.freeze(factor.atoms, reason)

    # ------------------------------------------------------------------ two dims with the same slots

    def equate(self, a: Axis, b: Axis) -> Axis:
        """Couple two dims slot by slot; return the finer structure, with the worse state."""
        if a == b:
            return a
        result: list[Factor] = []
        left, right = list(a), list(b)
        while left and right:
            f, g = left.pop(0), right.pop(0)
            if same(f.size, g.size):
                result.append(self._couple(f, g))
            elif (rest := quotient(f.size, g.size)) is not None:
                f, remainder = self.split(f, g.size, rest)
                left.insert(0, remainder)
                result.append(self._couple(f, g))
            elif (rest := quotient(g.size, f.size)) is not None:
                g, remainder = self.split(g, f.size, rest)
                right.insert(0, remainder)
                result.append(self._couple(f, g))
            else:
                result += self._couple_flat([f, *left], [g, *right])
                left, right = [], []
        if left or right:
            return self._give_up([*left, *right], [*result, *left, *right])
        return tuple(result)

    def _couple(self, f: Factor, g: Factor) -> Factor:
        sources = tuple(dict.fromkeys(f.sources + g.sources))
        if f.atoms is None or g.atoms is None:
            barrier, other = (f, g) if f.atoms is None else (g, f)
            self.freeze([other], barrier.reason)
            return replace(barrier, sources=sources)
        if f.atoms is not g.atoms:
            self.atoms.equate(f.atoms, g.atoms, self.reason)
        finer = f if f.atoms.shape[1] >= g.atoms.shape[1] else g
        return replace(finer, state=max(f.state, g.state), sources=sources)

    def _couple_flat(self, f: list[Factor], g: list[Factor]) -> list[Factor]:
        if is_static(f) and is_static(g) and axis_size(tuple(f)) == axis_size(tuple(g)):
            return [self._couple(merged(f), merged(g))]
        return list(self._give_up([*f, *g], f))

    def _give_up(self, factors: Sequence[Factor], shape: Sequence[Factor]) -> Axis:
        self.freeze(factors, self.reason)
        return tuple([Factor(f.size, None, self.reason) for f in shape])

    # ------------------------------------------------------------------ reshape

    def reshape(self, factors: Sequence[Factor], shape: Sequence[Dim]) -> list[Axis]:
        """Regroup the factors of a whole value into dims of these sizes."""
        dims = [(i, d) for i, d in enumerate(shape) if d != 1]
        axes: list[Axis] = [()] * len(shape)
        left = list(factors)
        tail: list[tuple[int, Factor]] = []
        while left and dims and same(left[-1].size, dims[-1][1]):
            tail.append((dims.pop()[0], left.pop()))
        for place, factor in tail:
            axes[place] = (factor,)
        while left and dims:
            place, size = dims.pop(0)
            taken: list[Factor] = []
            while left and not same(size, 1):
                factor = left.pop(0)
                if same(factor.size, size):
                    taken.append(factor)
                    size = 1
                elif (rest := quotient(factor.size, size)) is not None:
                    factor, remainder = self.split(factor, size, rest)
                    left.insert(0, remainder)
                    taken.append(factor)
                    size = 1
                elif (more := quotient(size, factor.size)) is not None:
                    taken.append(factor)
                    size = more
                else:
                    left.insert(0, factor)
                    break
            if same(size, 1):
                axes[place] = tuple(taken)
            else:
                self._regroup_flat([*taken, *left], [(place, shape[place]), *dims], axes)
                return axes
        if left or dims:
            self._regroup_flat(left, dims, axes)
        return axes

    def _regroup_flat(self, factors: list[Factor], dims: list[tuple[int, Dim]], axes: list[Axis]) -> None:
        """Sizes that don't nest (4x6 into 3x8): flatten the rest of the value and split it anew, or give up."""
        total = 1
        for _, size in dims:
            total = total * size  # type: ignore[assignment]
        if not (is_static(factors) and isinstance(total, int) and axis_size(tuple(factors)) == total > 0):
            self.freeze(factors, self.reason)
            for place, size in dims:
                axes[place] = (Factor(size, None, self.reason),)
            return
        rest = merged(factors)
        for place, size in dims[:-1]:
            assert isinstance(size, int) and isinstance(rest.size, int)
            first, rest = self.split(rest, size, rest.size // size)
            axes[place] = (first,)
        axes[dims[-1][0]] = (rest,)


def _factor(whole: Factor, size: int, parts: list[Ids], reason: int) -> Factor:
    if not parts:
        return replace(whole, size=size, atoms=None, reason=reason)
    return replace(whole, size=size, atoms=np.stack(parts, axis=1))
