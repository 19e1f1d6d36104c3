"""What the treatments of operators ask while they look at a pruning: what goes, what is zeroed, what is known."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from graphopt.analysis.channels import Removal
from graphopt.ir import Node, TensorType, Trait, Value
from graphopt.passes.pruning.rewrite.dead import Dead, filled, unknown, where_known, wide
from graphopt.passes.support.evaluation import evaluate

KNOWN_ELEMENTS = 1 << 12
"""Elements up to which a stored tensor that is no vector is looked at as a whole; of larger ones only what is zeroed is
known, so that no wide copy of a weight is made."""

CACHED_ELEMENTS = 1 << 10
"""Numbers of a stored tensor that are remembered; more are derived anew: no second copy of the model is held."""

STEPS = 32
"""How far back the cause of a refusal is looked for."""


@dataclass(frozen=True, eq=False)
class Refusal:
    """Slots of an axis that cannot go, and why.

    value, axis, slots: where they enter `node`, which cannot do without them.
    """

    value: Value
    axis: int
    slots: np.ndarray
    node: Node
    reason: str


@dataclass
class Scope:
    """A pruning while it is looked at.

    zeroed: the axes of parameters along which the masked model has zeros in the slots that go.
    border: whether a constant that is not zero may enter a layer that pads with zeros.
    rescale: whether norms may be given the statistics of the full width.
    """

    removal: Removal
    zeroed: Collection[tuple[Value, int]]
    border: bool = False
    rescale: bool = True
    numbers: dict[Value, Dead] = field(default_factory=dict)

    def kept(self, value: Value, axis: int) -> np.ndarray | None:
        """The slots that stay, or None if all do."""
        return self.removal.kept.get((value, axis))

    def removed(self, value: Value, axis: int) -> np.ndarray:
        """The slots that go."""
        kept = self.kept(value, axis)
        if kept is None:
            return np.empty(0, dtype=np.int64)
        gone = np.ones(size(value, axis), dtype=bool)
        gone[kept] = False
        return np.flatnonzero(gone)

    def axes(self, value: Value | None) -> Iterator[int]:
        """The axes of a value that lose slots."""
        if value is not None and isinstance(value.type, TensorType):
            for axis in range(value.type.rank):
                if self.kept(value, axis) is not None:
                    yield axis

    def touches(self, node: Node) -> bool:
        """True if an operand or a result loses slots."""
        return any(value in self.removal.shapes for value in (*node.inputs, *node.results))

    def is_zeroed(self, value: Value, axis: int) -> bool:
        """True if the masked model has zeros in what goes along this axis of a stored tensor."""
        return (value, axis) in self.zeroed

    def stored(self, value: Value) -> torch.Tensor | None:
        """The numbers of a stored tensor, or of a view of one; None of anything else."""
        if value.constant is not None:
            return None if value in self.removal.analysis.tracker.written else value.constant.tensor.detach()
        node = value.producer
        if node is None or not node.op.has(Trait.VIEW) or node.attributes.symbols:
            return None
        first, *others = node.inputs
        operand = self.stored(first) if not others else None
        return None if operand is None else evaluate(node, [operand])[value.index]

    def left_of(self, value: Value) -> torch.Tensor:
        """What is left of a stored tensor."""
        assert value.constant is not None
        return self.left(value, value.constant.tensor.detach())

    def left(self, value: Value, tensor: torch.Tensor, but: int = -1) -> torch.Tensor:
        """What is left of the numbers of a value; `but` is an axis that keeps all its slots."""
        for axis in self.axes(value):
            if axis != but:
                index = torch.from_numpy(self.kept(value, axis)).to(tensor.device)
                tensor = tensor.index_select(axis, index)
        return tensor

    def dead(self, value: Value) -> Dead:
        """What is known of a value."""
        found = self.numbers.get(value)
        if found is None:
            found = self._stored(value) if value.is_constant else unknown(value)
            if not value.is_constant or found.values.numel() <= CACHED_ELEMENTS:
                self.numbers[value] = found
        return found

    def _stored(self, value: Value) -> Dead:
        assert value.constant is not None
        axes = [axis for axis in self.axes(value) if self.is_zeroed(value, axis)]
        tensor = value.constant.tensor
        if value in self.removal.analysis.tracker.written:
            return self._rewritten(value, axes, tensor)
        if tensor.dim() == 1 or tensor.numel() <= KNOWN_ELEMENTS:
            tensor = wide(tensor)
            for axis in axes:
                tensor = tensor.index_fill(axis, torch.from_numpy(self.removed(value, axis)), 0)
            return where_known(value, tensor, torch.ones_like(tensor, dtype=torch.bool))
        return self._zeros(value, axes)

    def _rewritten(self, value: Value, axes: Sequence[int], tensor: torch.Tensor) -> Dead:
        """A stored tensor that every call writes to: at most its zeros stay what they are (see `settled`)."""
        return self._zeros(value, axes) if tensor.is_meta or bool(tensor.any()) else filled(value, 0)

    def _zeros(self, value: Value, axes: Sequence[int]) -> Dead:
        """Zeros in what goes along some axes, and nothing known elsewhere."""
        nothing = unknown(value)
        known = nothing.known
        for axis in axes:
            known = known | self._gone(value, axis)
        return where_known(value, torch.zeros_like(nothing.values), known)

    def _gone(self, value: Value, axis: int) -> torch.Tensor:
        """Bools along an axis, True for what goes."""
        shape = [1] * len(value.shape)
        shape[axis] = size(value, axis)
        gone = torch.zeros(size(value, axis), dtype=torch.bool)
        gone[torch.from_numpy(self.removed(value, axis))] = True
        return gone.reshape(shape)

    def entering(self, node: Node, value: Value, axis: int) -> tuple[torch.Tensor, list[Refusal]]:
        """The numbers with which the slots of an axis that go enter `node`, which sums over the axis.

        Returns one number a slot of the axis (0 for those that stay), and a refusal where numbers are not known.
        """
        vector = torch.zeros(size(value, axis), dtype=torch.float64)
        removed = self.removed(value, axis)
        if not len(removed):
            return vector, []
        dead = self._among_kept(value, axis).collapsed(a for a in range(len(value.shape)) if a != axis)
        dead = dead.expanded(axis, size(value, axis))
        values, known = dead.values.flatten(), dead.known.flatten()
        slots = torch.from_numpy(removed)
        numbers = values[slots]
        fine = known[slots] & numbers.isfinite()
        if numbers.is_complex():  # what folds into biases is summed in real numbers
            fine &= numbers == 0
            numbers = numbers.real
        vector[slots[fine]] = numbers[fine].double()
        if bool(fine.all()):
            return vector, []
        reason = f"what the masked model has there is no constant{self._lost(value)}"
        return vector, [Refusal(value, axis, slots[~fine].numpy(), node, reason)]

    def settled(self) -> Iterator[Refusal]:
        """The slots of stored tensors that were taken to hold zeros, and are written something else."""
        tracker = self.removal.analysis.tracker
        for constant, written in tracker.written.items():
            node = written.producer or tracker.graph.terminator
            for axis in self.axes(constant):
                _, open_ = self.entering(node, constant, axis)
                numbers, refused = self.entering(node, written, axis)
                bad = set(numbers.nonzero().flatten().tolist()).union(*(r.slots.tolist() for r in refused))
                bad = bad.difference(*(r.slots.tolist() for r in open_))
                if bad:
                    reason = f"written back to {constant.name!r}, it would not stay zero"
                    yield Refusal(written, axis, np.array(sorted(bad)), node, reason)

    def _lost(self, value: Value) -> str:
        """Where constants went in that did not come out."""
        for _ in range(STEPS):
            node = value.producer
            if node is None:
                return ""
            unknown_operands = [v for v in node.inputs if v in self.removal.shapes and not self.dead(v).anything]
            if not unknown_operands:
                return f" after {node.op.name} ({node.location})"
            value = unknown_operands[0]
        return ""

    def _among_kept(self, value: Value, axis: int) -> Dead:
        """What is known of a value in the slots that stay along all other axes."""
        dead = self.dead(value)
        for other in range(dead.rank):
            period = dead.values.shape[other]
            kept = self._kept_of(value, other, period) if other != axis and period > 1 else None
            if kept is not None:
                index = torch.from_numpy(kept)
                dead = dead.through(lambda t, a=other, i=index: t.index_select(a, i))  # type: ignore[misc]
        return dead

    def _kept_of(self, value: Value, axis: int, period: int) -> np.ndarray | None:
        """The slots that stay of an axis, or of the period of one of symbolic size."""
        if isinstance(value.shape[axis], int) or value not in self.removal.shapes:
            return self.kept(value, axis)
        gone, sizes = np.zeros(1, dtype=bool), 1
        for length, kept in reversed(self.removal.factors(value, axis)):
            if sizes == period or not isinstance(length, int):
                break
            own = np.zeros(length, dtype=bool) if kept is None else ~np.isin(np.arange(length), kept)
            gone = (own[:, None] | gone[None, :]).reshape(-1)
            sizes *= length
        return np.flatnonzero(~gone) if sizes == period else None


def size(value: Value, axis: int) -> int:
    """The size of an axis that is known to be a number."""
    found = value.shape[axis]
    assert isinstance(found, int)
    return found
