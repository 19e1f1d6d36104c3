"""Binding the arguments of an operator to its schema: operands in order, attributes complete and normal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphopt.errors import VerificationError, unknown_name
from graphopt.ir.attributes import EMPTY, Attributes, shared
from graphopt.ir.op import MISSING, SEGMENTS, Op, Param, ParamKind
from graphopt.ir.value import Value


def bind(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], Attributes]:
    """Split a call into operands and attributes, as the schema says.

    Operands may be anything but numbers, strings and dims (values, types, tensors); an absent optional is None.

    Raises:
        VerificationError: an argument is missing, or there are too many.
        UnknownNameError: a keyword that the schema does not have.
    """
    params = op.params
    count = len(args)
    if count > len(params):
        raise VerificationError(f"{op.name} takes {len(params)} arguments, got {count}")
    operands: list[Any] = []
    segments: list[int] = []
    attributes: dict[str, Any] = {}
    defaults, named = op.defaults, 0
    for index, param in enumerate(params):
        given = args[index] if index < count else MISSING
        if param.name in kwargs:
            if index < count:
                raise VerificationError(f"{op.name} got two values for argument {param.name!r}")
            given, named = kwargs[param.name], named + 1
        if param.kind is ParamKind.ATTRIBUTE:
            if given is not MISSING:
                if isinstance(given, Value):
                    raise VerificationError(_no_tensor(op, param, given))
                defaults = None
            attributes[param.name] = normalize(op, param, given)
        elif param.kind is ParamKind.OPERAND and given is not MISSING and given is not None:
            operands.append(given)
            segments.append(1)
        else:
            bound = _bind_operand(op, param, given)
            operands += bound
            segments.append(len(bound))
    if named < len(kwargs):
        names = [p.name for p in params]
        unknown = next(name for name in kwargs if name not in names)
        raise unknown_name("argument", unknown, names, f"It was given to {op.name}.")
    if op.variadics > 1:
        attributes[SEGMENTS] = tuple(segments)
    return operands, defaults if defaults is not None else shared(attributes)


def _no_tensor(op: Op, param: Param, given: Value) -> str:
    hint = "" if op.name != op.base else f"; name an overload, such as {op.name}.Tensor or {op.name}.Scalar"
    return f"{op.name} takes {param.type} for {param.name!r}, got {given!r}{hint}"


def complete(op: Op, attributes: Mapping[str, Any]) -> Attributes:
    """Fill in defaults and bring each attribute into normal form.

    Raises:
        UnknownNameError: an attribute that the schema does not have.
    """
    left = dict(attributes)
    full = {p.name: normalize(op, p, left.pop(p.name, MISSING)) for p in op.attribute_params}
    if SEGMENTS in left:
        full[SEGMENTS] = left.pop(SEGMENTS)
    if op.open:
        full.update(left)
    elif left:
        raise unknown_name("attribute", next(iter(left)), full, f"It was given to {op.name}.")
    return Attributes(full) if full else EMPTY


def normalize(op: Op, param: Param, value: Any) -> Any:
    """Bring one attribute into normal form: lists are tuples, `int[2]` given as 3 is (3, 3), floats are floats."""
    if value is MISSING:
        if param.default is MISSING:
            raise VerificationError(f"{op.name} needs argument {param.name!r}")
        return param.default
    kind = param.type
    if kind in _AS_GIVEN or (kind == "int" and type(value) is int):
        return value
    kind = kind.rstrip("?")
    if isinstance(value, list | tuple):
        return tuple(_scalar(kind.partition("[")[0], v) if not isinstance(v, list) else tuple(v) for v in value)
    if kind.endswith("]") and value is not None:
        size = kind[kind.index("[") + 1 : -1]
        return (_scalar(kind.partition("[")[0], value),) * (int(size) if size else 1)
    return _scalar(kind, value)


_AS_GIVEN = frozenset(["bool", "str", "Scalar", "dtype", "device", "layout", "memory_format"])
_AS_GIVEN |= {f"{kind}?" for kind in _AS_GIVEN}


def _scalar(kind: str, value: Any) -> Any:
    if kind == "float" and type(value) in (int, bool):
        return float(value)
    if kind == "int" and type(value) is bool:
        return int(value)
    return value


def _bind_operand(op: Op, param: Param, given: Any) -> list[Any]:
    if param.kind is ParamKind.VARIADIC:
        if given is MISSING or given is None:
            return []
        return list(given)
    if given is MISSING or given is None:
        if param.kind is ParamKind.OPERAND:
            raise VerificationError(f"{op.name} needs operand {param.name!r}")
        return [None]
    return [given]
