"""Control flow with regions: `higher_order.cond` and `higher_order.while_loop`.

Regions are isolated: what they capture arrives through operands, as in `torch.cond` and `while_loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.errors import TypeInferenceError
from graphopt.ir import Call, Op, Param, ParamKind, Trait, Type
from graphopt.ir.types import TensorType
from graphopt.ops.registry import registry

Region = Callable[..., list[Any]]


def _infer_cond(call: Call) -> Sequence[Type]:
    if len(call.regions) != 2:
        raise TypeInferenceError(f"higher_order.cond needs two regions, got {len(call.regions)}")
    then, other = ([v.type for v in region.outputs] for region in call.regions)
    if len(then) != len(other):
        raise TypeInferenceError("the branches of higher_order.cond return different numbers of values")
    return [_joined(a, b) for a, b in zip(then, other)]


def _joined(a: Type, b: Type) -> Type:
    if a == b:
        return a
    if isinstance(a, TensorType) and isinstance(b, TensorType) and a.dtype is b.dtype and a.rank == b.rank:
        return a
    raise TypeInferenceError(f"the branches of higher_order.cond return {a!r} and {b!r}")


def _run_cond(regions: Sequence[Region], predicate: Any, *operands: Any) -> list[Any]:
    return regions[0 if bool(predicate) else 1](*operands)


def _infer_while(call: Call) -> Sequence[Type]:
    if len(call.regions) != 2:
        raise TypeInferenceError(f"higher_order.while_loop needs two regions, got {len(call.regions)}")
    return [value.type for value in call.regions[1].outputs]


def _run_while(regions: Sequence[Region], *operands: Any) -> list[Any]:
    """Run `body` while `condition` holds. The body returns the carried values, which come first among the
    operands; the rest are loop-invariant and are dropped from the results by the number of results."""
    values = list(operands)
    while bool(regions[0](*values)[0]):
        carried = regions[1](*values)
        values[: len(carried)] = carried
    return values


COND = registry.register(
    Op(
        "higher_order.cond",
        (Param("predicate", ParamKind.OPERAND), Param("operands", ParamKind.VARIADIC, "Tensor[]")),
        frozenset({Trait.REGION}),
        _infer_cond,
        _run_cond,
    )
)

WHILE_LOOP = registry.register(
    Op(
        "higher_order.while_loop",
        (Param("operands", ParamKind.VARIADIC, "Tensor[]"),),
        frozenset({Trait.REGION}),
        _infer_while,
        _run_while,
    )
)
