"""Spaces: the factors that are chosen together, with the stored tensors that take them.

A *space* holds the channels between the layers (or norms) that make a value and those that read it. Channels are
numbered from 1; 0 is what keeps its scale.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from graphopt.analysis.channels.atoms import Atoms, Ids
from graphopt.ir import Graph, Node, Value
from graphopt.passes.scaling import homogeneous, layers
from graphopt.passes.scaling.tracker import track


@dataclass(frozen=True, eq=False)
class Factor:
    """What a stored tensor is multiplied by: the factors of `channels`, which broadcast to it, to the `exponent`.

    kind: see `Claim`. nodes: what reads it.
    """

    constant: Value
    kind: str
    channels: Ids
    exponent: int
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """The tensor's first name in the model."""
        return name_of(self.constant)

    def largest(self, tensor: torch.Tensor, space: Space) -> np.ndarray:
        """The greatest magnitude of a tensor like the constant by channel of its space, [size + 1]."""
        shape = self.channels.shape
        dims = [dim for dim in range(tensor.dim()) if shape[dim] == 1 and tensor.shape[dim] != 1]
        found = tensor.abs().amax(dims, keepdim=True) if dims else tensor.abs()
        result = np.zeros(space.size + 1)
        np.maximum.at(result, space.local(self.channels).ravel(), found.double().cpu().numpy().ravel())
        return result


@dataclass(eq=False)
class Space:
    """Channels whose factors are chosen together: `size` of them, numbered from `start`.

    makers: what takes the factors; readers: layers that take the inverse.
    """

    start: int
    size: int
    makers: list[Factor] = field(default_factory=list)
    readers: list[Factor] = field(default_factory=list)

    @property
    def name(self) -> str:
        """That of what reads it, or makes it."""
        return (self.readers or self.makers)[0].name

    def makers_of(self, kind: str) -> list[Factor]:
        """What makes it, of one kind."""
        return [maker for maker in self.makers if maker.kind == kind]

    def readers_of(self, kind: str) -> list[Factor]:
        """What reads it, of one kind."""
        return [reader for reader in self.readers if reader.kind == kind]

    @property
    def channels(self) -> slice:
        """Where its channels are in an array over all, [count + 1]."""
        return slice(self.start, self.start + self.size)

    def local(self, channels: Ids) -> Ids:
        """The numbers of channels in the space, from 1; 0 is what keeps its scale."""
        return np.where(channels > 0, channels - self.start + 1, 0)


class Spaces:
    """The spaces of a graph.

    count: the number of channels. factors: all that stored tensors take.
    clipped: clips that were passed (see `tracker.track`). inserted: values that are to be divided by a vector before
    the layers that read them, in graph order, with the space of its channels (see `insert`).

    >>> from graphopt.ops import parse
    >>> graph = parse('''input %x: f32[N, 4]
    ... parameter %w: f32[3, 4]
    ... parameter %v: f32[2, 3]
    ... %y = aten.linear(%x, %w)
    ... %z = aten.relu(%y)
    ... %o = aten.linear(%z, %v)
    ... return %o''')
    >>> (space,) = Spaces(graph).spaces
    >>> space.size, [f.name for f in space.makers], [f.name for f in space.readers]
    (3, ['w'], ['v'])
    """

    def __init__(self, graph: Graph, clips: bool = False) -> None:
        self.graph = graph
        self._tracker = track(graph, clips)
        self._atoms = atoms = self._tracker.atoms
        free = atoms.free(np.arange(1, atoms.count))
        self.count = len(free)
        self._numbers = np.zeros(atoms.count, np.int64)
        self._numbers[free] = np.arange(1, self.count + 1)
        self.clipped = self._tracker.clipped
        self.factors = self._all_factors()
        self.spaces = self._grouped()
        self.inserted: dict[Value, Space] = {}

    def channels(self, labels: Ids) -> Ids:
        """The numbers of labels."""
        return self._numbers[self._atoms.find(labels)]

    def of(self, value: Value) -> Ids:
        """The channels of a value; they broadcast to it."""
        return self.channels(self._tracker.labels(value))

    def columns(self, value: Value, axis: int) -> Ids:
        """The channels of a value along an axis, one an index; what is inserted at the value counts."""
        size = int(value.shape[axis])
        if value in self.inserted:
            return np.arange(self.inserted[value].start, self.inserted[value].start + size)
        channels = self.of(value)
        dim = axis % channels.ndim
        return np.broadcast_to(channels[tuple(slice(None) if d == dim else 0 for d in range(channels.ndim))], (size,))

    def insert(self) -> None:
        """Make spaces of what products read that keeps its scale, to be divided by a vector before them.

        A weight that other nodes read too is left.
        """
        for value, claim in self._tracker.claims.items():
            labels, _ = claim.factors.get("in", (np.zeros(0, np.int64), 0))
            if claim.kind != "layer" or len(claim.nodes) != 1 or value.num_uses != 1 or self.channels(labels).any():
                continue
            node = claim.nodes[0]
            x = node.operands[int(node.op.base == "aten.addmm")]
            if x is None or labels.ndim != 2 or x.constant is not None or value.dtype is not x.dtype:
                continue
            self._insert(value, node, x, labels.shape)

    def _insert(self, weight: Value, node: Node, x: Value, shape: tuple[int, ...]) -> None:
        if x not in self.inserted:
            size = max(shape)
            self.inserted[x] = Space(self.count + 1, size)
            self.count += size
            self.spaces.append(self.inserted[x])
        space = self.inserted[x]
        channels = np.arange(space.start, space.start + space.size).reshape(shape)
        space.readers.append(Factor(weight, "layer", channels, -1, (node,)))
        self.factors.append(space.readers[-1])

    def reasons(self) -> dict[str, list[str]]:
        """Why layers keep the scales of what they read: the names of their weights by reason."""
        found: dict[str, list[str]] = {}
        read = {v: claim.factors["in"][0] for v, claim in self._tracker.claims.items() if claim.kind == "layer"}
        divided = {factor.constant for space in self.inserted.values() for factor in space.readers}
        for value, labels in {**read, **self._tracker.refused}.items():
            kept = labels[self.channels(labels) == 0]
            if kept.size and value not in divided:
                text, _ = self._atoms.reasons[int(self._atoms.reason_of(kept[:1])[0])]
                found.setdefault(text, []).append(name_of(value))
        return found

    def reason(self, node: Node) -> str | None:
        """Why a layer keeps the scale of what it reads; None if it does not, or is none."""
        named = {name_of(value) for value in node.inputs if value.constant is not None}
        for reason, names in self.reasons().items():
            if named & set(names):
                return f"the scale of what it reads stays: {reason}"
        return None

    def _all_factors(self) -> list[Factor]:
        found = []
        for value, claim in self._tracker.claims.items():
            for labels, exponent in claim.factors.values():
                channels = self.channels(labels)
                if channels.any():
                    found.append(Factor(value, claim.kind, channels, exponent, tuple(claim.nodes)))
        return found

    def _grouped(self) -> list[Space]:
        """Number the channels anew, so that those that a tensor has along one role are next to each other."""
        together = Atoms()
        together.fresh(self.count)
        for factor in self.factors:
            members = np.unique(factor.channels[factor.channels > 0])
            together.equate(members[1:], np.broadcast_to(members[:1], (len(members) - 1,)), 0)
        roots = together.find(np.arange(self.count + 1))
        order = np.argsort(roots[1:], kind="stable") + 1
        renumbered = np.zeros(self.count + 1, np.int64)
        renumbered[order] = np.arange(1, self.count + 1)
        self._numbers = renumbered[self._numbers]
        starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
        spaces = [Space(int(i) + 1, int(n)) for i, n in zip(starts, np.diff(starts, append=self.count))]
        self.factors = self._all_factors()
        for factor in self.factors:
            space = spaces[int(np.searchsorted(starts, factor.channels.max() - 1, side="right")) - 1]
            (space.makers if factor.exponent > 0 else space.readers).append(factor)
        return [space for space in spaces if space.makers or space.readers]


def name_of(value: Value) -> str:
    """The first name of a stored tensor in the model."""
    names = value.constant.names if value.constant is not None else ()
    return names[0] if names else value.name


_REGISTERED = (layers, homogeneous)  # imported for the rules that they register
