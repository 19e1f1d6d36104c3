"""Type inference, memoized by operator, operand types and attributes: types are frozen, so the key is cheap."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import GraphOptError, TypeInferenceError
from graphopt.ir.attributes import Attributes
from graphopt.ir.dims import Expr, symbol
from graphopt.ir.graph import Graph
from graphopt.ir.op import Call, Op, Trait
from graphopt.ir.types import Type
from graphopt.ir.value import Node, Value

_MEMO_LIMIT = 1 << 16
_memo: dict[tuple[Op, tuple[Type | None, ...], Attributes], tuple[Type, ...]] = {}


def infer_types(
    op: Op, operands: Sequence[Value | None], attributes: Attributes, regions: tuple[Graph, ...] = ()
) -> tuple[Type, ...]:
    """Return the result types of an operator.

    Raises:
        TypeInferenceError: the operands don't fit, or the operator has no inference.
    """
    types = tuple([None if v is None else v.type for v in operands])
    if regions or Trait.DATA_DEPENDENT in op.traits:
        return _infer(Call(op, types, attributes, regions))
    key = (op, types, attributes)
    found = _memo.get(key)
    if found is None:
        found = _infer(Call(op, types, attributes))
        if len(_memo) >= _MEMO_LIMIT:
            _memo.clear()
        _memo[key] = found
    return found


def infer_node(node: Node) -> tuple[Type, ...]:
    """Infer the result types of a node anew."""
    return infer_types(node.op, node.operands, node.attributes, node.regions)


def _infer(call: Call) -> tuple[Type, ...]:
    if call.op.infer is None:
        raise TypeInferenceError(f"{call.op.name} has no type inference; give its result types")
    try:
        return tuple(call.op.infer(call))
    except GraphOptError:
        raise
    except Exception as error:
        shown = ", ".join(map(repr, call.operand_types))
        raise TypeInferenceError(f"{call.op.name} cannot take ({shown}) with {dict(call.attributes)}: {error}") from error


def placeholder(index: int, low: int = 0, high: int | None = None) -> Expr:
    """The symbol of a size that depends on data, before the graph has named it."""
    return symbol(f"?{index}", low, high)
