"""The opset that a file says: the lowest that was wanted in which its operations can say what they mean.

Most operators are the same in many opsets. Some changed in what is not used here: a softmax over the last dim, which
before opset 13 was over all dims from there on, and a batch norm that does not train. Reductions name their axes by an
attribute before opset 18 and by an input since; what `Resize` does without is an empty tensor before opset 13. They are
turned into the older form where that is all that a lower opset takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import onnx
import torch

from graphopt.backends.onnx.records import Body, Operation, Tensor
from graphopt.backends.onnx.versions import means_the_same
from graphopt.ir import DType
from graphopt.ops.onnx_dtypes import ONNX_CODES
from graphopt.ops.onnx_nested import graphs_of, short_domain

LOWEST_DECLARED = 11
"""Before that, axes and indices are not negative, which no schema tells."""


OLD_WORDS = frozenset(
    [
        *("constant", "reflect", "edge", "NOTSET"),
        *("nearest", "linear", "cubic", "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
        *("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
        *("forward", "reverse", "bidirectional"),
        *("none", "add", "mul"),
    ]
)
"""Words that attributes have meant the same by since there are such attributes."""
AXES_BY_INPUT = 18
"""Since this opset the operators below take their axes as an input."""
OPTIONAL_SCALES = 13
"""Since this opset `Resize` does not need both a region and scales."""
_REDUCTIONS = frozenset(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


_SOFTMAXES = frozenset(["Softmax", "LogSoftmax", "Hardmax"])
_FLOATS = frozenset([DType.F16, DType.F32, DType.F64])


def declared_opset(body: Body, written: int, wanted: int) -> tuple[int, str]:
    """Return the lowest opset from `wanted` to `written` in which every operation means the same as in `written`, and
    the operator that keeps it from being lower ("" if none does). Operations are given the form of that opset."""
    found, reason = min(max(wanted, LOWEST_DECLARED), written), ""
    operations = list(_all(body))
    for operation in _distinct(operations):
        while found < written and not _can_be_said(operation, written, found):
            found, reason = found + 1, operation.op_type
    for operation in operations if found < AXES_BY_INPUT else ():
        if _has_fixed_axes(operation):
            operation.inputs, operation.attributes = _with_axes_attribute(operation)
        elif found < OPTIONAL_SCALES and _is_resize(operation):
            operation.inputs = _with_empty_tensors(operation)
    return found, reason


def _can_be_said(operation: Operation, written: int, other: int) -> bool:
    if _has_never_changed(operation):
        return True
    if other < OPTIONAL_SCALES and _is_resize(operation):
        inputs = _with_empty_tensors(operation)
        return _means_the_same(
            Operation(operation.op_type, inputs, operation.outputs, operation.attributes), written, other
        )
    if other < AXES_BY_INPUT <= written and _has_fixed_axes(operation):
        inputs, attributes = _with_axes_attribute(operation)
        older = Operation(operation.op_type, inputs, operation.outputs, attributes)
        return _means_the_same(older, AXES_BY_INPUT - 1, other)
    return _means_the_same(operation, written, other)


def _all(body: Body) -> Iterator[Operation]:
    """The operations of a body and its subgraphs."""
    for operation in body.operations:
        yield operation
        for inner in operation.bodies():
            yield from _all(inner)


def _distinct(operations: Iterable[Operation]) -> Iterator[Operation]:
    """One operation of each kind."""
    seen = set()
    for operation in operations:
        types = tuple([None if t is None else (t.dtype, t.type is None) for t in operation.inputs])
        names = frozenset(operation.attributes)
        form = _has_fixed_axes(operation), _has_never_changed(operation)
        key = operation.domain, operation.op_type, names, types, len(operation.outputs), form
        if key not in seen or _nested(operation):
            seen.add(key)
            yield operation


def _has_never_changed(operation: Operation) -> bool:
    """True for an operation that means the same since `LOWEST_DECLARED`, though its operator has changed."""
    if operation.domain or any(t is None or t.dtype not in _FLOATS for t in operation.inputs):
        return False
    if operation.op_type in _SOFTMAXES:
        (source,) = operation.inputs
        assert source is not None and source.shape is not None
        return operation.attributes.get("axis") in (-1, len(source.shape) - 1)
    plain = set(operation.attributes) <= {"epsilon", "momentum"} and len(operation.outputs) == 1
    alike = len({tensor.dtype for tensor in operation.inputs if tensor is not None}) == 1
    return operation.op_type == "BatchNormalization" and plain and alike


def _has_fixed_axes(operation: Operation) -> bool:
    """True for a reduction along axes that an attribute could name."""
    if operation.domain or operation.op_type not in _REDUCTIONS or "noop_with_empty_axes" in operation.attributes:
        return False
    axes = operation.inputs[1] if len(operation.inputs) == 2 else None
    return axes is not None and axes.data is not None and axes.data.numel() > 0


def _with_axes_attribute(operation: Operation) -> tuple[list[Tensor | None], dict[str, Any]]:
    """The inputs and attributes of a reduction with fixed axes, as before opset 18."""
    source, axes = operation.inputs
    assert axes is not None and axes.data is not None
    return [source], {"axes": axes.data.tolist(), **operation.attributes}


def _is_resize(operation: Operation) -> bool:
    return operation.op_type == "Resize" and not operation.domain


def _with_empty_tensors(operation: Operation) -> list[Tensor | None]:
    """The inputs of a `Resize`, with empty tensors in the place of those that are left out."""
    nothing = Tensor(DType.F32, (0,), "unused", torch.empty(0))
    image, *others = operation.inputs
    return [image, *(nothing if tensor is None else tensor for tensor in others)]


def _means_the_same(operation: Operation, written: int, other: int) -> bool:
    nested = all(_unchanged(inner, written, other) for inner in _nested(operation))
    if operation.domain or not nested:
        return nested
    # What a word may be differs between versions of an operator, and a sequence has no type that is compared here.
    texts = any(word not in OLD_WORDS for value in operation.attributes.values() for word in _words(value))
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


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [value.s.decode(errors="replace")] if isinstance(value, onnx.AttributeProto) and value.HasField("s") else []


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
    return bool(short_domain(node.domain)) or means_the_same(node, written, other)


@cache
def _type_text(dtype: DType) -> str:
    return f"tensor({onnx.TensorProto.DataType.Name(ONNX_CODES[dtype]).lower()})"
