"""What a selection of channels removes: for every dim, the slots that stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphopt.analysis.channels.axes import Axis, as_int, is_static
from graphopt.errors import GraphOptError
from graphopt.ir import Dim, TensorType, Value
from graphopt.ir.dims import product

if TYPE_CHECKING:
    from graphopt.analysis.channels.analysis import ChannelAnalysis

Kept = NDArray[np.int64]


class Removal:
    """The effect of a selection.

    kept: for each (value, dim) of static size that loses slots, the positions that stay, ascending.
    shapes: for each value that loses slots, its new shape (dims of symbolic size included).
    removed_atoms: for each atom, whether it is removed.
    """

    def __init__(self, analysis: ChannelAnalysis, selection: Mapping[str, ArrayLike]) -> None:
        self.analysis = analysis
        tracker = analysis.tracker
        self.removed_atoms = np.zeros(tracker.atoms.count, bool)
        for name, chosen in selection.items():
            group = analysis.group(name)
            mask = np.asarray(chosen, bool)
            if mask.shape != (group.size,):
                raise GraphOptError(f"group {name!r} has {group.size} channels, the selection has shape {mask.shape}")
            self.removed_atoms[group.atoms[mask]] = True
        self.kept: dict[tuple[Value, int], Kept] = {}
        self.shapes: dict[Value, tuple[Dim, ...]] = {}
        self._masks: dict[int, NDArray[np.bool_]] = {}
        for value, axes in tracker.values.items():
            for dim, axis in enumerate(axes):
                self._visit(value, dim, axis)

    def _visit(self, value: Value, dim: int, axis: Axis) -> None:
        masks = [None if f.atoms is None else self._gone(f.atoms) for f in axis]
        if not any(m is not None and m.any() for m in masks):
            return
        sizes: list[Dim] = [f.size if m is None else int((~m).sum()) for f, m in zip(axis, masks)]
        if 0 in sizes:
            raise GraphOptError(f"the selection removes all of dim {dim} of {value.name!r}")
        assert isinstance(value.type, TensorType)
        shape = list(self.shapes.get(value, value.type.shape))
        shape[dim] = product(sizes)
        self.shapes[value] = tuple(shape)
        if is_static(axis):
            whole = np.zeros(1, np.bool_)
            for factor, mask in zip(axis, masks):
                own = np.zeros(as_int(factor.size), np.bool_) if mask is None else mask
                whole = (whole[:, None] | own[None, :]).reshape(-1)
            self.kept[value, dim] = np.flatnonzero(~whole)

    def _gone(self, atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = self._masks.get(id(atoms))
        if found is None:
            removed: NDArray[np.bool_] = self.removed_atoms[self.analysis.resolve(atoms)]
            found = self._masks[id(atoms)] = np.logical_or.reduce(removed, axis=1)
        return found

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """The new shape of a value."""
        return self.shapes.get(value, value.shape)

    def factors(self, value: Value, dim: int) -> list[tuple[Dim, Kept | None]]:
        """The parts of a dim, row-major: each with its old size and the positions that stay (None: all)."""
        return [(f.size, self._positions(f.atoms)) for f in self.analysis.tracker.values[value][dim]]

    def _positions(self, atoms: NDArray[np.int64] | None) -> Kept | None:
        if atoms is None or not self._gone(atoms).any():
            return None
        return np.flatnonzero(~self._gone(atoms))
