"""The opset that a file says: the lowest that was wanted in which its operations mean what they were written for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import onnx

from graphopt.backends.onnx.records import Body, Operation
from graphopt.backends.onnx.versions import means_the_same
from graphopt.ir import DType
from graphopt.ops.onnx_dtypes import ONNX_CODES
from graphopt.ops.onnx_nested import graphs_of

LOWEST_DECLARED = 11
"""Before that, axes and indices are not negative, which no schema tells."""


def declared_opset(body: Body, written: int, wanted: int) -> tuple[int, str]:
    """Return the lowest opset from `wanted` to `written` in which every operation means the same as in `written`, and
    the operator that keeps it from being lower ("" if none does)."""
    found, reason = min(max(wanted, LOWEST_DECLARED), written), ""
    for operation in _distinct(body):
        while found < written and not _means_the_same(operation, written, found):
            found, reason = found + 1, operation.op_type
    return found, reason


def _distinct(body: Body) -> Iterator[Operation]:
    """One operation of each kind, those of subgraphs included."""
    seen = set()
    bodies = [body]
    while bodies:
        for operation in bodies.pop().operations:
            types = tuple([None if t is None else (t.dtype, t.type is None) for t in operation.inputs])
            key = operation.domain, operation.op_type, frozenset(operation.attributes), types, len(operation.outputs)
            if key not in seen or _nested(operation):
                seen.add(key)
                yield operation
            bodies += operation.bodies()


def _means_the_same(operation: Operation, written: int, other: int) -> bool:
    nested = all(_unchanged(inner, written, other) for inner in _nested(operation))
    if operation.domain or not nested:
        return nested
    # What a string may be differs between versions of an operator, and a sequence has no type that is compared here.
    texts = any(map(_is_text, operation.attributes.values()))
    types: list[str] | None = ["" if t is None else _type_text(t.dtype) for t in operation.inputs]
    if texts or any(t is not None and t.type is not None for t in operation.inputs):
        types = None
    node = onnx.NodeProto(
        op_type=operation.op_type,
        input=[""] * len(operation.inputs),
        output=[""] * len(operation.outputs),
        attribute=[onnx.AttributeProto(name=name) for name in operation.attributes],
    )
    return means_the_same(node, written, other, types)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, onnx.AttributeProto) and value.HasField("s"))


def _nested(operation: Operation) -> list[onnx.NodeProto]:
    """The nodes of the graphs that an opaque operation brings along, and of those within."""
    attributes = [a for a in operation.attributes.values() if isinstance(a, onnx.AttributeProto)]
    graphs = [graph for a in attributes for graph in (*([a.g] if a.HasField("g") else ()), *a.graphs)]
    found: list[onnx.NodeProto] = []
    while graphs:
        for node in graphs.pop().node:
            found.append(node)
            graphs += graphs_of(node)
    return found


def _unchanged(node: onnx.NodeProto, written: int, other: int) -> bool:
    return node.domain not in ("", "ai.onnx") or means_the_same(node, written, other)


@cache
def _type_text(dtype: DType) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(ONNX_CODES[dtype]).lower()})"
