"""Concatenation and its inverses: plain indexing of atoms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphopt.analysis.channels.axes import Axis, Factor, axis_size, axis_state, is_static, is_tracked, merged
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Dim, Node, TensorType


@rule("cat concat concatenate")
def cat(t: Tracker, node: Node) -> None:
    """The atoms of the parts one after the other; the other dims are coupled."""
    parts = [v for v in t.operands() if v.shape != (0,)]
    rank = len(parts[0].shape)
    place = node.attributes.get("dim", 0) % rank
    axes: list[Axis] = []
    for dim in range(rank):
        owns = [t.axes(v)[dim] for v in parts]
        if dim == place:
            axes.append(join(t, owns, [v.shape[dim] for v in parts], node.results[0].shape[dim]))
            continue
        axis = owns[0]
        for other in owns[1:]:
            axis = t.equate(axis, other, "concatenated beside")
        axes.append(axis)
    t.set(axes)


def join(t: Tracker, parts: list[Axis], sizes: list[Dim], size: Dim) -> Axis:
    """The dims one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not any(is_tracked(p) for p in parts):
        return t.opaque(size, "concatenated, none of it removable")
    if not all(isinstance(s, int) and is_static(p) for s, p in zip(sizes, parts)):
        for part in parts:
            t.freeze(part, "concatenated with a part of symbolic size")
        return t.opaque(size, "concatenated with a part of symbolic size")
    columns = [_columns(t, part, int(s)) for part, s in zip(parts, sizes)]  # type: ignore[call-overload]
    width = max(c.shape[1] for c in columns)
    atoms = np.concatenate([np.pad(c, ((0, 0), (0, width - c.shape[1]))) for c in columns])
    sources = tuple(dict.fromkeys(s for p in parts for f in p for s in f.sources))
    return (Factor(len(atoms), atoms, 0, max(axis_state(p) for p in parts), sources),)


def _columns(t: Tracker, axis: Axis, size: int) -> np.ndarray:
    factor = merged(axis) if axis else Factor(1)
    if factor.atoms is not None:
        return factor.atoms
    frozen = t.atoms.fresh(1)
    t.atoms.freeze(frozen, factor.reason or t.reason("concatenated, none of it removable"))
    return np.full((size, 1), frozen[0])


def take(t: Tracker, axis: Axis, index: np.ndarray, text: str) -> Axis:
    """Slots of a dim at static positions."""
    if not is_tracked(axis):
        reason = axis[0].reason if axis else t.reason(text)
        return () if len(index) == 1 else (Factor(len(index), None, reason),)
    factor = merged(axis)
    assert factor.atoms is not None
    if len(index) == 1:
        t.freeze((replace(factor, atoms=factor.atoms[index]),), f"{text}: one slot alone")
        return ()
    return (replace(factor, size=len(index), atoms=factor.atoms[index]),)


_ = (TensorType, axis_size)
