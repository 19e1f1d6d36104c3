"""Tensors made from sizes: every slot holds the same, or its own number."""

from __future__ import annotations

from graphopt.analysis.channels.axes import State
from graphopt.analysis.channels.rules.table import rule
from graphopt.analysis.channels.tracker import Tracker
from graphopt.ir import Node, TensorType, Trait


@rule(
    "zeros ones full empty arange linspace scalar_tensor rand randn randint eye new_zeros new_ones new_full new_empty"
)
def create(t: Tracker, node: Node) -> None:
    """Slots that go with whatever they are coupled to; by themselves no channels."""
    for value in t.operands():
        if node.op.base == "aten.full":
            t.freeze_all(value, "a number to fill with")
    name = node.op.base.removeprefix("aten.").removeprefix("new_")
    result = node.result
    assert isinstance(result.type, TensorType)
    is_zero = name == "zeros" or (name == "full" and node.attributes.get("fill_value") == 0)
    state = State.ZERO if is_zero else State.CONSTANT
    if node.op.has(Trait.RANDOM) or name == "eye":
        state = State.VARYING
    t.set(t.copies(size, state) for size in result.type.shape)
