"""What the analysis says: groups of channels, and what carries them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphopt.analysis.channels.tracker import Role
from graphopt.ir import Node, Value

Channels = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Member:
    """A dim of a stored tensor that carries channels of a group.

    channels: for each slot of the dim, the channel of the group that it hangs on, or -1. A slot of a dim with product
    structure hangs on several channels (its row's and its column's) and goes if one of them goes: then there is one
    member for each such factor, numbered by `factor`, with an entry for every slot.
    role: see `Role`; `role.zeroed` says whether the masked model has zeros there.
    """

    constant: Value
    name: str
    dim: int
    role: Role
    channels: Channels
    factor: int = 0

    def channel_scores(self, slots: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        """Sum numbers given a slot into numbers a channel; `size` is the group's."""
        kept = self.channels >= 0
        return np.bincount(self.channels[kept], weights=slots[kept], minlength=size).astype(np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class GroupAxis:
    """A dim of a value whose slots all hang on channels of one group: at least one of them must stay.

    channels: the distinct channels, sorted.
    """

    value: Value
    dim: int
    channels: Channels


@dataclass(frozen=True, eq=False, slots=True)
class Need:
    """A node that counts the slots of a dim (see `Care.kind`), so that removing some of them needs a rewrite of it."""

    kind: str
    node: Node
    value: Value
    dim: int


@dataclass(frozen=True, eq=False)
class Group:
    """Channels that compete with one another, with all that is tied to each.

    name: that of the first parameter that makes them, with `:0`, `:1`, … where it makes several groups.
    size: the number of channels. members: stored tensors' dims, in graph order. axes: see `GroupAxis`.
    needs: nodes that need more than slicing. fingerprint: equal for groups of the same structure at any size.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    axes: tuple[GroupAxis, ...]
    needs: tuple[Need, ...]
    fingerprint: str
    atoms: Channels = field(repr=False)

    def __repr__(self) -> str:
        return f"<group {self.name}: {self.size} channels, {len(self.members)} members>"


@dataclass(frozen=True, eq=False, slots=True)
class FrozenDim:
    """A dim that a parameter makes and of which `slots` out of `size` can't be removed, and why.

    node: where that was found, or None for the graph's own inputs and outputs.
    """

    value: Value
    name: str
    dim: int
    slots: int
    size: int
    reason: str
    node: Node | None
