"""Python numbers where a schema has a tensor, and symbolic values where it has a number."""

from __future__ import annotations

from typing import Any

import torch

from graphopt.errors import CaptureError
from graphopt.frontends.builder import Builder
from graphopt.frontends.torch_export.overloads import Overload, describe, scalar_overload
from graphopt.ir import Attributes, DType, Expr, TensorType, Value
from graphopt.ir.bind import bind

_ABSENT = (Value, type(None))


def bind_numbers(
    builder: Builder, overload: Overload, operands: list[Any], attributes: Attributes
) -> tuple[Overload, list[Value | None], Attributes]:
    """Give a call its normal form: `add.Tensor(x, 2)` is `add.Scalar(x, 2)`.

    Where no such overload exists the number becomes a 0-dim constant; a number that is a value (`x * (n / 2)`)
    makes the opposite change.
    """
    if any(not isinstance(operand, _ABSENT) for operand in operands):
        return _numbers_to_scalars(builder, overload, operands, attributes)
    if any(isinstance(attribute, Value) for attribute in attributes.values()):
        return _values_to_operands(overload, operands, attributes)
    return overload, operands, attributes


def _numbers_to_scalars(
    builder: Builder, overload: Overload, operands: list[Any], attributes: Attributes
) -> tuple[Overload, list[Value | None], Attributes]:
    arguments = overload.op.bind_names(operands, attributes)
    numbers = frozenset(
        p.name for p in overload.op.operand_params if not isinstance(arguments.get(p.name), (*_ABSENT, tuple))
    )
    scalar = scalar_overload(overload.torch_op, numbers) if numbers else None
    if scalar is not None:
        found = describe(scalar)
        return found, *bind(found.op, (), arguments)
    tensors = [operand for operand in operands if isinstance(operand, Value)]
    return overload, [o if isinstance(o, _ABSENT) else constant(builder, o, tensors) for o in operands], attributes


def constant(builder: Builder, number: Any, others: list[Value]) -> Value:
    """Return a number as a 0-dim tensor that promotes as the number would next to `others`."""
    if isinstance(number, Expr):
        return builder.one("aten.scalar_tensor", number, dtype=DType.I64)
    if isinstance(number, bool | int):
        return builder.scalar(number)
    types = [v.type for v in others if isinstance(v.type, TensorType)]
    same_kind = [t for t in types if t.dtype.is_floating]
    if same_kind and all(t.rank == 0 for t in types):
        return builder.scalar(number, same_kind[0].dtype.torch)
    wide = torch.float64 if any(t.dtype.torch is torch.float64 for t in same_kind) else None
    return builder.scalar(number, wide if isinstance(number, float) else None)


def _values_to_operands(
    overload: Overload, operands: list[Any], attributes: Attributes
) -> tuple[Overload, list[Value | None], Attributes]:
    values = {name for name, attribute in attributes.items() if isinstance(attribute, Value)}
    arguments = overload.op.bind_names(operands, attributes)
    packet = overload.torch_op.overloadpacket
    for name in packet.overloads():
        candidate = getattr(packet, name)
        tensors = {a.name for a in candidate._schema.arguments if str(a.real_type) == "Tensor"}
        names = [a.name for a in candidate._schema.arguments]
        if values <= tensors and names == list(arguments) and not candidate._schema.is_mutable:
            found = describe(candidate)
            return found, *bind(found.op, (), arguments)
    raise CaptureError(
        f"{overload.op.name} takes {', '.join(sorted(values))} as a fixed number, but it is computed from data "
        "or sizes; compute it with tensors"
    )
