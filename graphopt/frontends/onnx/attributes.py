"""Attributes of ONNX nodes as Python values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
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
    return {attribute.name: _value(attribute, folder) for attribute in node.attribute[:]}


def _value(attribute: onnx.AttributeProto, folder: Folder | None) -> Any:
    read = _readers().get(attribute.type)
    if read is not None:
        return read(attribute, folder)
    kinds, kind = type(attribute).AttributeType, attribute.type
    name = kinds.Name(kind) if kind in kinds.values() else str(kind)
    raise CaptureError(f"attribute {attribute.name!r} is of kind {name}, which is not supported")


@cache
def _readers() -> Mapping[int, Callable[[onnx.AttributeProto, Folder | None], Any]]:
    """How an attribute of each kind is read."""
    from onnx import AttributeProto

    return {
        AttributeProto.INT: lambda attribute, _: attribute.i,
        AttributeProto.FLOAT: lambda attribute, _: attribute.f,
        AttributeProto.STRING: lambda attribute, _: _text(attribute.s),
        AttributeProto.TENSOR: lambda attribute, folder: to_torch(attribute.t, folder),
        AttributeProto.GRAPH: lambda attribute, _: attribute.g,
        AttributeProto.INTS: lambda attribute, _: list(attribute.ints),
        AttributeProto.FLOATS: lambda attribute, _: list(attribute.floats),
        AttributeProto.STRINGS: lambda attribute, _: list(map(_text, attribute.strings)),
        AttributeProto.GRAPHS: lambda attribute, _: list(attribute.graphs),
        AttributeProto.SPARSE_TENSOR: lambda attribute, _: attribute.sparse_tensor,
        AttributeProto.TYPE_PROTO: lambda attribute, _: attribute.tp,
    }


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
