"""Attributes of ONNX nodes as Python values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.errors import CaptureError
from graphopt.frontends.onnx.tensors import Folder, to_torch

if TYPE_CHECKING:
    import onnx


def attributes_of(node: onnx.NodeProto, folder: Folder | None) -> dict[str, Any]:
    """Return a node's attributes: numbers, strings, lists of them, torch tensors, and graphs as they are.

    Raises:
        CaptureError: an attribute of a kind that is not supported.
    """
    return {attribute.name: _value(attribute, folder) for attribute in node.attribute}


def _value(attribute: onnx.AttributeProto, folder: Folder | None) -> Any:
    from onnx import AttributeProto

    kind = attribute.type
    if kind == AttributeProto.INT:
        return attribute.i
    if kind == AttributeProto.FLOAT:
        return attribute.f
    if kind == AttributeProto.STRING:
        return attribute.s.decode(errors="surrogateescape")
    if kind == AttributeProto.TENSOR:
        return to_torch(attribute.t, folder)
    if kind == AttributeProto.GRAPH:
        return attribute.g
    if kind == AttributeProto.INTS:
        return list(attribute.ints)
    if kind == AttributeProto.FLOATS:
        return list(attribute.floats)
    if kind == AttributeProto.STRINGS:
        return [s.decode(errors="surrogateescape") for s in attribute.strings]
    if kind == AttributeProto.GRAPHS:
        return list(attribute.graphs)
    if kind == AttributeProto.SPARSE_TENSOR:
        return attribute.sparse_tensor
    if kind == AttributeProto.TYPE_PROTO:
        return attribute.tp
    name = AttributeProto.AttributeType.Name(kind) if kind in AttributeProto.AttributeType.values() else str(kind)
    raise CaptureError(f"attribute {attribute.name!r} is of kind {name}, which is not supported")
