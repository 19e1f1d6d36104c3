"""What a selection of channels removes: for every dim, the slots that stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphopt.analysis.channels.axes import Axis
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
        if all(isinstance(f.size, int) for f in axis):
            whole = np.zeros(1, bool)
            for factor, mask in zip(axis, masks):
                own = np.zeros(factor.size, bool) if mask is None else mask  # type: ignore[arg-type]
                whole = (whole[:, None] | own[None, :]).reshape(-1)
            self.kept[value, dim] = np.flatnonzero(~whole)

    def _gone(self, atoms: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = self._masks.get(id(atoms))
        if found is None:
            found = self.removed_atoms[self.analysis.resolve(atoms)].any(1)
            self._masks[id(atoms)] = found
        return found

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """The new shape of a value."""
        return self.shapes.get(value, value.shape)

    def factors(self, value: Value, dim: int) -> list[tuple[Dim, Kept | None]]:
        """The parts of a dim, row-major: each with its old size and the positions that stay (None: all)."""
        return [
            (f.size, None if f.atoms is None or not self._gone(f.atoms).any() else np.flatnonzero(~self._gone(f.atoms)))
            for f in self.analysis.tracker.values[value][dim]
        ]
