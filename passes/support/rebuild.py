"""Making a node again with other operands."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir import Node, TensorType, Value, infer_types, types_known_equal
from graphopt.rewrite import Rewriter


def with_first_operand(node: Node, value: Value, rewriter: Rewriter) -> Value:
    """The only result of `node` made again on another first operand."""
    return rewriter.rebuild(node, (value, *node.operands[1:])).result


def same_type_with(node: Node, operands: Sequence[Value | None]) -> bool:
    """True if `node` would have the same result types on `operands`; they must be valid for its operator."""
    types = infer_types(node.op, operands, node.attributes)
    return all(types_known_equal(a, r.type) for a, r in zip(types, node.results))


def filled(like: Value, number: int | bool, rewriter: Rewriter) -> Value:
    """A tensor of the type of `like`, every element of it `number`."""
    type_ = tensor_type(like)
    device = None if type_.device == "cpu" else type_.device
    return rewriter.create("aten.full", type_.shape, number, dtype=type_.dtype, device=device).result


def tensor_type(value: Value) -> TensorType:
    """The type of a value that is known to be a tensor."""
    assert isinstance(value.type, TensorType)
    return value.type
