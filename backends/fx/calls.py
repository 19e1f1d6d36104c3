"""An application of an operator as a call: what is called, with which arguments."""

from __future__ import annotations

import keyword
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from graphopt.backends.fx.public_functions import PUBLIC
from graphopt.errors import EmissionError
from graphopt.ir import MISSING, Node, Op, Param, ParamKind
from graphopt.ops import attribute_to_torch, torch_arguments
from graphopt.ops.schema import FOLLOW


@dataclass(slots=True)
class Call:
    """target: a callable, or the name of a method of the first argument.

    follows: the training flags that are left out, because they follow the module's `training`.
    """

    target: Callable[..., Any] | str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    follows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the schema says of an operator, looked up once."""

    keyword_only: frozenset[str]
    awkward: bool
    """A parameter's name is a Python keyword, so that arguments must be positional."""
    returns_one: bool | None
    """The call returns one value that is not in a list; None: there is no schema that says it."""


def build_call(node: Node, operands: Sequence[Any], dim: Callable[[Any], Any], *, trainable: bool = True) -> Call:
    """Return the call for `node`. Operands and required attributes are positional, the rest goes by keyword.

    trainable: leave out training flags that follow the module; otherwise they are False.

    Raises:
        EmissionError: an operator without reference semantics, or an argument that PyTorch cannot express.
    """
    if node.op.evaluate is None:
        raise EmissionError(f"{node.op.name} has no PyTorch implementation; register one as the operator's `evaluate`")
    try:
        return _build(node, operands, dim, trainable)
    except TypeError as error:
        raise EmissionError(f"{node.op.name} has an argument that PyTorch cannot express: {error}") from error


def returns_one(op: Op) -> bool | None:
    """Whether a call of `op` returns its result bare (True), in a list or tuple (False), or either (None)."""
    return _shape(op).returns_one


def _build(node: Node, operands: Sequence[Any], dim: Callable[[Any], Any], trainable: bool) -> Call:
    op = node.op
    shape = _shape(op)
    target = op.evaluate
    assert target is not None
    follows = _following(node) if trainable else ()
    if shape.awkward:
        args, kwargs = torch_arguments(op, operands, node.attributes, dim)
        return Call(target, tuple(args), kwargs)
    call = Call(target, (), {}, follows)
    given = _split_arguments(op, shape, operands, node, dim, call)
    public = PUBLIC.get(op.name)
    if public is not None and (public.takes is None or given <= public.takes):
        call.target = public.target
    return call


def _following(node: Node) -> tuple[str, ...]:
    return tuple(p.name for p in node.op.attribute_params if node.attributes.get(p.name) == FOLLOW)


def _split_arguments(
    op: Op, shape: _Shape, operands: Sequence[Any], node: Node, dim: Callable[[Any], Any], call: Call
) -> set[str]:
    """Fill in `call`; return the names of the optional attributes that are given."""
    named = op.bind_names(operands, node.attributes)
    args: list[Any] = []
    given: set[str] = set()
    positional = True
    for param in op.params:
        value = named.get(param.name, param.default)
        attribute = param.kind is ParamKind.ATTRIBUTE
        if param.name in call.follows or _is_left_out(param, value, attribute):
            positional = False
            continue
        if attribute:
            if param.default is not MISSING:
                positional = False
                given.add(param.name)
            value = attribute_to_torch(param, value, dim)
        elif param.kind is ParamKind.VARIADIC:
            value = list(value)
        if positional and param.name not in shape.keyword_only:
            args.append(value)
        else:
            call.kwargs[param.name] = value
    call.args = tuple(args)
    return given


def _is_left_out(param: Param, value: Any, attribute: bool) -> bool:
    if param.default is MISSING:
        return False
    if attribute:
        return value == param.default and type(value) is type(param.default)
    return value is None


@cache
def _shape(op: Op) -> _Shape:
    schema = getattr(op.evaluate, "_schema", None)
    if schema is None:
        return _Shape(frozenset(), False, None)
    returns = schema.returns
    one = len(returns) == 1 and not isinstance(returns[0].real_type, torch.ListType)
    return _Shape(
        frozenset(a.name for a in schema.arguments if a.kwarg_only),
        any(keyword.iskeyword(a.name) for a in schema.arguments),
        one or not returns,
    )
