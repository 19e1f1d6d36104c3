"""Whether an operator means the same in two opsets.

A later version is an extension of an earlier one if it takes all that the earlier did (attributes with the same
defaults, operands, results and types) and what is new may be left out. A node means the same in both versions of the
operator if the later one extends the earlier, and the node uses nothing that only the later has.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from onnx.defs import OpSchema


def means_the_same(node: onnx.NodeProto, opset: int, other: int, types: Sequence[str] | None = None) -> bool:
    """True if a node of the standard domain, from a file of `opset`, means the same in one of opset `other`.

    types: of the operands, as ONNX's schemas write them ("tensor(float)"); None if they are not known.

    >>> from onnx.helper import make_node
    >>> means_the_same(make_node("Relu", ["x"], ["y"]), 7, 20)
    True
    >>> means_the_same(make_node("Squeeze", ["x"], ["y"], axes=[0]), 11, 20)
    False
    """
    own, written = _schema(node.op_type, opset), _schema(node.op_type, other)
    if own is None or written is None:
        return False
    if own.since_version == written.since_version:
        return True
    if own.since_version < written.since_version:
        return _extends(node.op_type, written.since_version, own.since_version)
    return _extends(node.op_type, own.since_version, written.since_version) and _fits(node, written, types)


@cache
def _schema(op_type: str, opset: int) -> OpSchema | None:
    from onnx import defs

    try:
        schema = defs.get_schema(op_type, opset, "")
    except defs.SchemaError:
        return None
    return None if schema.deprecated else schema


@cache
def _extends(op_type: str, later: int, earlier: int) -> bool:
    new, old = _schema(op_type, later), _schema(op_type, earlier)
    assert new is not None and old is not None
    for name, attribute in new.attributes.items():
        before = old.attributes.get(name)
        if before is None:
            if attribute.required:
                return False
        elif (before.type, _default(before)) != (attribute.type, _default(attribute)):
            return False
    return (
        set(old.attributes) <= set(new.attributes)
        and _parameters_extend(new.inputs, old.inputs)
        and _parameters_extend(new.outputs, old.outputs)
    )


def _default(attribute: Any) -> bytes:
    data: bytes = attribute.default_value.SerializeToString()
    return data


def _parameters_extend(new: Sequence[Any], old: Sequence[Any]) -> bool:
    if len(new) < len(old):
        return False
    for index, parameter in enumerate(new):
        option = parameter.option.name
        if index >= len(old):
            if option == "Single":
                return False
        elif not set(old[index].types) <= set(parameter.types) or (
            option != old[index].option.name and option != "Optional"
        ):
            return False
    return True


def _fits(node: onnx.NodeProto, schema: OpSchema, types: Sequence[str] | None) -> bool:
    """True if a node uses nothing but what an earlier version has."""
    if types is None or any(attribute.name not in schema.attributes for attribute in node.attribute):
        return False
    if not schema.min_input <= len(node.input) <= schema.max_input or len(node.output) > schema.max_output:
        return False
    last = len(schema.inputs) - 1
    return all(_takes(schema.inputs[min(i, last)], type_) for i, type_ in enumerate(types))


def _takes(parameter: Any, type_: str) -> bool:
    """True if a parameter may be of a type; "" is that of an operand which is left out."""
    return type_ in parameter.types if type_ else parameter.option.name != "Single"
