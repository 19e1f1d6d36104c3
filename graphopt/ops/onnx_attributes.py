"""Attributes of ONNX nodes as attributes of the IR, and back without loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx


def attribute_from_proto(proto: onnx.AttributeProto) -> Any:
    """Return the IR attribute: a number, a string, or a tuple of them where that says all of it, else the bytes of the
    `AttributeProto` (tensors, graphs, types, lists without elements, strings that are no text).

    >>> from onnx.helper import make_attribute
    >>> attribute_from_proto(make_attribute("axes", [1, 2]))
    (1, 2)
    """
    kind = proto.type
    if kind == proto.INT:
        return proto.i
    if kind == proto.FLOAT:
        return proto.f
    if kind == proto.INTS and proto.ints:
        return tuple(proto.ints)
    if kind == proto.FLOATS and proto.floats:
        return tuple(proto.floats)
    strings = [proto.s] if kind == proto.STRING else list(proto.strings)
    if kind == proto.STRING or (kind == proto.STRINGS and strings):
        try:
            texts = tuple([s.decode() for s in strings])
        except UnicodeDecodeError:
            return _serialized(proto)
        return texts[0] if kind == proto.STRING else texts
    return _serialized(proto)


def attribute_to_proto(name: str, value: Any) -> onnx.AttributeProto:
    """Return the `AttributeProto` of an IR attribute."""
    from onnx import AttributeProto

    proto = AttributeProto()
    if isinstance(value, bytes):
        proto.ParseFromString(value)
    else:
        fill_attribute(proto, value)
    proto.name = name
    return proto


def fill_attribute(proto: onnx.AttributeProto, value: Any) -> None:
    """Write a number, a string or a sequence of either into an attribute. An empty sequence is one of integers."""
    if isinstance(value, bool | int):
        proto.type, proto.i = proto.INT, int(value)
    elif isinstance(value, float):
        proto.type, proto.f = proto.FLOAT, value
    elif isinstance(value, str):
        proto.type, proto.s = proto.STRING, _bytes(value)
    elif len(value) and isinstance(value[0], str):
        proto.type = proto.STRINGS
        proto.strings.extend([_bytes(item) for item in value])
    elif len(value) and isinstance(value[0], float):
        proto.type = proto.FLOATS
        proto.floats.extend(value)
    else:
        proto.type = proto.INTS
        proto.ints.extend(value)


def _bytes(text: str) -> bytes:
    """The bytes that a text was read from, UTF-8 or not."""
    return text.encode(errors="surrogateescape")


def _serialized(proto: onnx.AttributeProto) -> bytes:
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
