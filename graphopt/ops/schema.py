"""From PyTorch operator schemas to IR operators, and from IR arguments back to PyTorch calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from graphopt.ir import DType, Expr, Op, Param, ParamKind, Trait, from_torch
from graphopt.ir.bind import normalize
from graphopt.ir.op import MISSING, SEGMENTS
from graphopt.ops.devices import torch_device

FOLLOW = "follow"
"""The value of a `training` attribute that follows the module's `.training`; read as False where nothing is trained."""

MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "preserve": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
LAYOUTS = {"strided": torch.strided, "sparse_coo": torch.sparse_coo, "sparse_csr": torch.sparse_csr}
_MEMORY_FORMAT_NAMES = {v: k for k, v in MEMORY_FORMATS.items()}
_LAYOUT_NAMES = {v: k for k, v in LAYOUTS.items()}

# `ScalarType`, `Layout` and `MemoryFormat` defaults come from schemas as integers.
_SPECIAL = {"ScalarType": "dtype", "Layout": "layout", "MemoryFormat": "memory_format", "Device": "device"}


def op_from_torch(name: str, overload: torch._ops.OpOverload, extra: frozenset[Trait] = frozenset()) -> Op:
    """Build the IR operator of a PyTorch operator overload. Operands are its tensor arguments, in schema order."""
    schema = overload._schema
    params = tuple(_param(argument) for argument in schema.arguments)
    return Op(name, tuple(_with_default(name, p) for p in params), _traits(overload) | extra, None, overload)


def _param(argument: Any) -> Param:
    default = argument.default_value if argument.has_default_value() else MISSING
    text = _type_text(argument)
    base = text.replace("?", "")
    if base == "Tensor":
        kind = ParamKind.OPTIONAL if text.endswith("?") else ParamKind.OPERAND
        return Param(argument.name, kind, text, default)
    if base == "Tensor[]":
        return Param(argument.name, ParamKind.VARIADIC, text, default)
    if base in ("dtype", "layout", "memory_format", "device") and default is not MISSING:
        default = None
    return Param(argument.name, ParamKind.ATTRIBUTE, text, default)


def _type_text(argument: Any) -> str:
    kind = argument.real_type
    optional = ""
    if kind.kind() == "OptionalType":
        kind, optional = kind.getElementType(), "?"
    if kind.kind() == "ListType":
        element = kind.getElementType()
        inner = ""
        if element.kind() == "OptionalType":
            element, inner = element.getElementType(), "?"
        size = "" if argument.N is None else str(argument.N)
        return f"{_scalar_text(element)}{inner}[{size}]{optional}"
    return _scalar_text(kind) + optional


def _scalar_text(kind: Any) -> str:
    text = str(kind)
    return _SPECIAL.get(text, {"number": "Scalar", "SymInt": "int"}.get(text, text))


def _with_default(name: str, param: Param) -> Param:
    if param.kind is not ParamKind.ATTRIBUTE or param.default is MISSING:
        return param
    bare = Op(name, ())
    return Param(param.name, param.kind, param.type, normalize(bare, param, param.default))


def _traits(overload: torch._ops.OpOverload) -> frozenset[Trait]:
    traits: set[Trait] = set()
    tags = overload.tags
    if torch.Tag.pointwise in tags:
        traits.add(Trait.ELEMENTWISE)
    if torch.Tag.nondeterministic_seeded in tags:
        traits.add(Trait.RANDOM)
    if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
        traits.add(Trait.DATA_DEPENDENT)
    known = overload.namespace in ("aten", "prims")
    if overload._schema.is_mutable or not overload._schema.returns:
        traits.add(Trait.EFFECT)
    elif known and Trait.RANDOM not in traits:
        traits.add(Trait.PURE)
    return frozenset(traits)


def attribute_from_torch(value: Any) -> Any:
    """Turn a PyTorch argument that is not a tensor into an attribute (dtypes, devices, formats by name)."""
    if isinstance(value, torch.dtype):
        return from_torch(value)
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, torch.memory_format):
        return _MEMORY_FORMAT_NAMES[value]
    if isinstance(value, torch.layout):
        return _LAYOUT_NAMES[value]
    if isinstance(value, list | tuple):
        return tuple(attribute_from_torch(v) for v in value)
    return value


def attribute_to_torch(param: Param, value: Any, dim: Callable[[Expr], Any]) -> Any:
    """Turn an attribute into a PyTorch argument; `dim` gives the number (or proxy) of a dim expression."""
    if value is None or isinstance(value, bool | int | float | complex):
        return value
    if isinstance(value, DType):
        return value.torch
    if isinstance(value, Expr):
        return dim(value)
    if isinstance(value, tuple):
        return [attribute_to_torch(param, v, dim) for v in value]
    kind = param.type.rstrip("?")
    if kind == "bool" and value == FOLLOW:
        return False
    if kind == "memory_format":
        return MEMORY_FORMATS[value]
    if kind == "layout":
        return LAYOUTS[value]
    if kind == "device":
        return torch_device(value)
    return value


def torch_arguments(
    op: Op, operands: Sequence[Any], attributes: Mapping[str, Any], dim: Callable[[Expr], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return `(args, kwargs)` for calling the PyTorch overload of `op`.

    operands: tensors (or proxies) in the order of the node's operands. Arguments that equal their defaults and
    come last are left out, so that emitted code stays short.
    """
    named = op.bind_names(operands, attributes)
    keyword_only = _keyword_only(op)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for param in op.params:
        value = named.get(param.name, param.default)
        if param.kind is ParamKind.ATTRIBUTE:
            is_default = value == param.default and type(value) is type(param.default)
            converted = attribute_to_torch(param, value, dim)
        else:
            converted = list(value) if isinstance(value, tuple) else value
            is_default = value is None and param.default is None
        if param.name in keyword_only:
            if not is_default:
                kwargs[param.name] = converted
        else:
            args.append((converted, is_default))
    while args and args[-1][1]:
        args.pop()
    if op.open:
        kwargs.update({name: value for name, value in named.items() if name not in {p.name for p in op.params}})
    return [value for value, _ in args], kwargs


def _keyword_only(op: Op) -> frozenset[str]:
    schema = getattr(op.evaluate, "_schema", None)
    if schema is None:
        return frozenset()
    return frozenset(a.name for a in schema.arguments if a.kwarg_only)


__all__ = ["SEGMENTS", "attribute_from_torch", "attribute_to_torch", "op_from_torch", "torch_arguments"]
