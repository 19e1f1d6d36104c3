"""Type inference, memoized by operator, operand types and attributes: types are frozen, so the key is cheap.

PyTorch's default dtype is a part of the key too, since it decides what integers divide to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from graphopt.errors import GraphOptError, TypeInferenceError
from graphopt.ir.attributes import Attributes, attribute_key
from graphopt.ir.fresh import placeholders, with_names_of
from graphopt.ir.graph import Graph
from graphopt.ir.op import Call, Op
from graphopt.ir.printer import attribute_text
from graphopt.ir.types import Type
from graphopt.ir.value import Node, Value

_MEMO_LIMIT = 1 << 16
_Key: TypeAlias = "tuple[Op, tuple[Type | None, ...], Attributes, torch.dtype]"
_memo: dict[_Key, tuple[tuple[Type, ...], bool]] = {}
_types: dict[Type, Type] = {}
"""One object for all types that are equal, so that they are found to be without a look inside."""


def infer_types(
    op: Op, operands: Sequence[Value | None], attributes: Attributes, regions: tuple[Graph, ...] = ()
) -> tuple[Type, ...]:
    """Return the result types of an operator. Sizes that depend on data are placeholders (see `fresh`).

    Raises:
        TypeInferenceError: the operands don't fit, or the operator has no inference.
    """
    return _infer_types(op, operands, attributes, regions)[0]


def infer_node(node: Node) -> tuple[Type, ...]:
    """Infer the result types of a node anew. Symbols that the node introduces keep their names, or get new ones.

    Raises:
        TypeInferenceError: the operands don't fit, or the operator has no inference.
    """
    types, is_open = infer_with_symbols(node)
    return node.graph.name_symbols(types) if is_open and node.graph is not None else types


def infer_with_symbols(node: Node) -> tuple[tuple[Type, ...], bool]:
    """`infer_node`, and whether the node may introduce symbols: its sizes depend on data, or on its regions."""
    types, is_open = _infer_types(node.op, node._operands, node.attributes, node.regions)
    return (with_names_of(node, types) if is_open else types), is_open or bool(node.regions)


def _infer_types(
    op: Op, operands: Sequence[Value | None], attributes: Attributes, regions: tuple[Graph, ...]
) -> tuple[tuple[Type, ...], bool]:
    """The result types, and whether there are placeholders in them."""
    types = tuple([None if v is None else v.type for v in operands])
    if regions:
        return _infer(Call(op, types, attributes, regions))
    key = (op, types, attributes, torch.get_default_dtype())
    found = _memo.get(key)
    if found is None:
        inferred, is_open = _infer(Call(op, types, attributes))
        if len(_memo) >= _MEMO_LIMIT:
            _memo.clear()
            _types.clear()
        _types.update((type_, type_) for type_ in types if type_ is not None and type_ not in _types)
        found = _memo[key] = tuple([_types.setdefault(type_, type_) for type_ in inferred]), is_open
    return found


def _infer(call: Call) -> tuple[tuple[Type, ...], bool]:
    if call.op.infer is None:
        raise TypeInferenceError(f"{call.op.name} has no type inference; give its result types")
    try:
        types = tuple(call.op.infer(call))
    except GraphOptError:
        raise
    except Exception as error:
        raise TypeInferenceError(refusal(call, str(error))) from error
    return types, bool(placeholders(types))


def refusal(call: Call, reason: str) -> str:
    """The sentence that says what an operator cannot take, and why."""
    shown = ", ".join("none" if t is None else repr(t) for t in call.operand_types)
    defaults = {p.name: attribute_key(p.default) for p in call.op.attribute_params}
    given = [
        f"{name}={attribute_text(value)}"
        for name, value in call.attributes.items()
        if defaults.get(name) != attribute_key(value)
    ]
    options = f" with {', '.join(given)}" if given else ""
    return f"{call.op.name} cannot take ({shown}){options}: {reason}"
