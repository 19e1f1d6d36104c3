"""Control flow with regions: `higher_order.cond` and `higher_order.while_loop`.

Regions are isolated: what they capture arrives through operands, as in `torch.cond` and `while_loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphopt.errors import TypeInferenceError
from graphopt.ir import Call, DType, Graph, Op, Param, ParamKind, Trait, Type
from graphopt.ir.dims import Dim, bounds, known_equal
from graphopt.ir.fresh import placeholder
from graphopt.ir.types import ScalarKind, ScalarType, TensorType, types_compatible
from graphopt.ops.registry import registry

Region = Callable[..., list[Any]]

ROUNDS = 50_000
"""How many rounds of a loop the reference runs: one that would go on for hours is an error."""


def _infer_cond(call: Call) -> Sequence[Type]:
    then, other = _regions(call)
    predicate = call.operand_types[0] if call.operand_types else None
    if not _is_truth(predicate):
        raise TypeInferenceError(f"higher_order.cond needs one bool to decide by, got {predicate!r}")
    for region in (then, other):
        _require_inputs(call, region, call.operand_types[1:])
    if len(then.outputs) != len(other.outputs):
        raise TypeInferenceError("the branches of higher_order.cond return different numbers of values")
    join = _Join(call, "the branches return")
    return [join.types(a.type, b.type) for a, b in zip(then.outputs, other.outputs)]


def _regions(call: Call) -> tuple[Graph, Graph]:
    if len(call.regions) != 2:
        raise TypeInferenceError(f"{call.op.name} needs two regions, got {len(call.regions)}")
    return call.regions[0], call.regions[1]


def _is_truth(type_: Type | None) -> bool:
    if isinstance(type_, ScalarType):
        return type_.kind is ScalarKind.BOOL
    return isinstance(type_, TensorType) and type_.dtype is DType.BOOL and known_equal(type_.numel, 1)


def _require_inputs(call: Call, region: Graph, given: Sequence[Type | None]) -> None:
    if len(region.inputs) != len(given):
        raise TypeInferenceError(
            f"region {region.name} of {call.op.name} takes {len(region.inputs)} inputs, {len(given)} are given"
        )
    for value, type_ in zip(region.inputs, given):
        if type_ is None or not types_compatible(value.type, type_):
            raise TypeInferenceError(
                f"input %{value.name} of region {region.name} of {call.op.name} is {value.type!r}, {type_!r} is given"
            )


class _Join:
    """The type of a value that is one of two: sizes that may differ become symbols that the node introduces."""

    def __init__(self, call: Call, what: str) -> None:
        self.call, self.what, self.count = call, what, 0

    def types(self, a: Type, b: Type) -> Type:
        if a == b:
            return a
        if isinstance(a, TensorType) and isinstance(b, TensorType) and a.dtype is b.dtype and a.rank == b.rank:
            return a.with_shape(tuple([self.dims(x, y) for x, y in zip(a.shape, b.shape)]))
        if isinstance(a, ScalarType) and isinstance(b, ScalarType) and a.kind is b.kind:
            whole = a.kind is ScalarKind.INT
            return ScalarType(a.kind, self.new() if whole and a.value is not None else None)
        raise TypeInferenceError(f"{self.call.op.name} has no type for a result: {self.what} {a!r} and {b!r}")

    def dims(self, a: Dim, b: Dim) -> Dim:
        if known_equal(a, b):
            return a
        (low_a, high_a), (low_b, high_b) = bounds(a), bounds(b)
        high = None if high_a is None or high_b is None else max(high_a, high_b)
        return self.new(max(min(low_a or 0, low_b or 0), 0), high)

    def new(self, low: int = -(2**63), high: int | None = None) -> Dim:
        self.count += 1
        return placeholder(self.count - 1, low, high)


def _run_cond(regions: Sequence[Region], predicate: Any, *operands: Any) -> list[Any]:
    return regions[0 if bool(predicate) else 1](*operands)


def _infer_while(call: Call) -> Sequence[Type]:
    condition, body = _regions(call)
    for region in (condition, body):
        _require_inputs(call, region, call.operand_types)
    if len(condition.outputs) != 1 or not _is_truth(condition.outputs[0].type):
        raise TypeInferenceError("the condition of higher_order.while_loop returns other than one bool")
    carried = [value.type for value in body.outputs]
    if len(carried) > len(call.operand_types):
        raise TypeInferenceError("the body of higher_order.while_loop returns more values than it takes")
    join = _Join(call, "it starts as and becomes")
    return [join.types(start, end) for start, end in zip(call.operand_types, carried)]  # type: ignore[arg-type]


def _run_while(regions: Sequence[Region], *operands: Any) -> list[Any]:
    """Run `body` while `condition` holds. The body returns the carried values, which come first among the
    operands; the rest are loop-invariant and are dropped from the results by the number of results."""
    values = list(operands)
    for _ in range(ROUNDS):
        if not bool(regions[0](*values)[0]):
            return values
        carried = regions[1](*values)
        values[: len(carried)] = carried
    raise RuntimeError(f"no end after {ROUNDS:,} rounds; where that is right, compile with validate=False")


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
