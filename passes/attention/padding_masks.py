"""Masks that hide padded positions: what a value is where a position of the batch is live, and where it is padding.

A value that depends on a mask [B, L] by elementwise operators, and is spread by views, holds one number wherever a
position is live and another wherever it is not: a `Mark`. Operators are followed by running them on the two numbers:

    attention_mask            1        0          [B, L]
    to(bool)                  true     false      [B, L]
    reshape                   true     false      [B, 1, 1, L]
    where(·, 0, −∞)           0        −∞         [B, 1, 1, L]

A live position is one where the mask is not 0. So three numbers stand for it, unless the mask is known to hold ones and
zeros: what is computed of them, such as (1 − mask) · −10³⁸, has to come to one and the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import Node, TensorType, Trait, Value
from graphopt.ir.dims import Dim, known_equal
from graphopt.ops.attention.planning import HIDDEN
from graphopt.ops.effects import is_pure
from graphopt.passes.support.evaluation import evaluate
from graphopt.rewrite import uniform_value

_RESHAPES = frozenset(
    f"aten.{name}" for name in ("reshape", "view", "unsqueeze", "squeeze", "expand", "contiguous", "clone", "alias")
)
_POINTWISE = frozenset({"aten._to_copy", "aten.to", "aten.detach", "aten.where", "aten.masked_fill"})
_FULL = {"zeros": 0, "ones": 1, "zeros_like": 0, "ones_like": 1, "new_zeros": 0, "new_ones": 1}


@dataclass(frozen=True)
class Mark:
    """live, dead: what a value may hold at the two kinds of positions. axes: which of its dims are B and L; None where
    it holds one number everywhere. source: the mask that tells the kinds apart."""

    live: torch.Tensor
    dead: torch.Tensor
    axes: tuple[int, int] | None = None
    source: Value | None = None

    @property
    def hides_dead(self) -> bool:
        """Whether it is a mask of attention that shows the live positions alone."""
        if self.live.dtype is torch.bool:
            return bool(self.live.all()) and not bool(self.dead.any())
        return bool((self.live == 0).all()) and bool((self.dead <= HIDDEN).all())

    @property
    def hides_live(self) -> bool:
        """Whether it shows the others alone."""
        return Mark(self.dead, self.live).hides_dead


class Marks:
    """Follows values back to masks; each is looked at once. binary: masks hold ones and zeros."""

    def __init__(self, binary: bool = False) -> None:
        self.binary = binary
        self._known: dict[Value, Mark | None] = {}

    def of(self, value: Value) -> Mark | None:
        """What a value holds, or None if it is not known to be so simple."""
        pending = [value]
        while pending:
            current = pending[-1]
            node = current.producer
            if current in self._known:
                pending.pop()
            elif node is None or not _is_followed(node):
                self._known[current] = _given(current, self.binary)
            elif missing := [v for v in node.inputs if v not in self._known]:
                pending += missing
            else:
                self._known[current] = self._followed(node)
        return self._known[value]

    def _followed(self, node: Node) -> Mark | None:
        number = _number(node)
        if number is not None:
            return Mark(number, number)
        marks = [None if v is None else self._known[v] for v in node.operands]
        present = [mark for v, mark in zip(node.operands, marks) if v is not None]
        if not present or any(mark is None for mark in present):
            return None
        if node.op.base in _RESHAPES:
            return _spread(node, marks[0])
        return _computed(node, marks)


def _is_followed(node: Node) -> bool:
    elementwise = Trait.ELEMENTWISE in node.op.traits or node.op.base in _POINTWISE or node.op.base in _RESHAPES
    return len(node.results) == 1 and (_number(node) is not None or (elementwise and is_pure(node)))


def _given(value: Value, binary: bool) -> Mark | None:
    """A mask that is an input or computed otherwise, or a stored number."""
    type_ = value.type
    if not isinstance(type_, TensorType) or type_.dtype.torch.is_complex:
        return None
    if value.constant is not None:
        number = uniform_value(value)
        if number is None:
            return None
        everywhere = torch.tensor([number], dtype=type_.dtype.torch)
        return Mark(everywhere, everywhere)
    if type_.rank != 2 or type_.dtype.torch.is_floating_point:
        return None
    dtype = type_.dtype.torch
    live = [1] if binary or dtype is torch.bool else [1, 2, 77]
    return Mark(torch.tensor(live, dtype=dtype), torch.zeros(1, dtype=dtype), (0, 1), value)


def _number(node: Node) -> torch.Tensor | None:
    """What a node holds everywhere whatever its operands are."""
    type_ = node.results[0].type if node.results else None
    if not isinstance(type_, TensorType):
        return None
    name = node.op.base.removeprefix("aten.")
    if name in _FULL:
        return torch.tensor([_FULL[name]], dtype=type_.dtype.torch)
    if name in ("full", "full_like", "new_full", "scalar_tensor"):
        number = node.attributes.get("fill_value", node.attributes.get("s"))
        return torch.tensor([number], dtype=type_.dtype.torch) if isinstance(number, int | float) else None
    if node.op.name == "aten.ge.Scalar" and node.attr("other") == 0 and _counts_up(node.operands[0]):
        return torch.tensor([True])
    return None


def _counts_up(value: Value | None) -> bool:
    """True for an arange from 0 on, in any shape."""
    node = value.producer if value is not None else None
    while node is not None and node.op.base in _RESHAPES:
        node = node.operands[0].producer if node.operands[0] is not None else None
    if node is None or node.op.base != "aten.arange":
        return False
    start, step = node.attributes.get("start", 0), node.attributes.get("step", 1)
    return isinstance(start, int) and start >= 0 and isinstance(step, int) and step > 0


def _spread(node: Node, mark: Mark | None) -> Mark | None:
    """A view: the dims of the mask stay in order, and only dims of size 1 come, go or are repeated."""
    source = node.operands[0]
    if mark is None or mark.axes is None or source is None:
        return mark
    old, new = source.type, node.results[0].type
    assert isinstance(old, TensorType) and isinstance(new, TensorType)
    axes = _expanded(old, new, mark.axes) if node.op.base == "aten.expand" else _reshaped(old, new, mark.axes)
    return None if axes is None else Mark(mark.live, mark.dead, axes, mark.source)


def _expanded(old: TensorType, new: TensorType, axes: tuple[int, int]) -> tuple[int, int] | None:
    shift = new.rank - old.rank
    same = all(known_equal(old.shape[axis], new.shape[axis + shift]) for axis in axes)
    return (axes[0] + shift, axes[1] + shift) if same else None


def _reshaped(old: TensorType, new: TensorType, axes: tuple[int, int]) -> tuple[int, int] | None:
    before, after = _wide(old.shape), _wide(new.shape)
    if len(before) != len(after) or not all(known_equal(old.shape[a], new.shape[b]) for a, b in zip(before, after)):
        return None
    places = dict(zip(before, after))
    return (places[axes[0]], places[axes[1]]) if axes[0] in places and axes[1] in places else None


def _wide(shape: tuple[Dim, ...]) -> list[int]:
    return [axis for axis, dim in enumerate(shape) if dim != 1]


def _computed(node: Node, marks: list[Mark | None]) -> Mark | None:
    """An elementwise operator, on the numbers at live positions and on those at others."""
    result = node.results[0].type
    assert isinstance(result, TensorType)
    axes, source = None, None
    for operand, mark in zip(node.operands, marks):
        if mark is None or mark.axes is None or operand is None:
            continue
        assert isinstance(operand.type, TensorType)
        shift = result.rank - operand.type.rank
        own = (mark.axes[0] + shift, mark.axes[1] + shift)
        if source is not None and (source is not mark.source or own != axes):
            return None
        axes, source = own, mark.source
    try:
        live, dead = (
            evaluate(node, [None if m is None else getattr(m, kind) for m in marks])[0] for kind in ("live", "dead")
        )
    except (RuntimeError, IndexError, ValueError, NotImplementedError, TypeError):
        return None
    return Mark(live, dead, axes, source)
