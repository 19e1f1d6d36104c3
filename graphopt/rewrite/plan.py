"""A pattern's arguments resolved against one operator's schema, so that matching a node looks nothing up by name.

Most attempts fail because an operand comes from the wrong place. A `Source` says where an operand comes from, coarsely
enough to be a dictionary key, so that rules are sorted out once for each combination of sources and not for each node.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

from graphopt.ir import MISSING, Node, Op, Param, ParamKind, Trait, Value

Matcher = Any
"""An object with `match(value, match) -> bool` and `may_match(source) -> bool`."""


class Place(Enum):
    """Where an operand comes from, if not from a node."""

    STORED = auto()
    INPUT = auto()
    ABSENT = auto()

    __hash__ = object.__hash__


Source = Op | Place
"""Where an operand comes from: the operator that makes it, or a `Place`."""


def source_of(value: Value | None) -> Source:
    """The source of an operand."""
    if value is None:
        return Place.ABSENT
    if value.producer is not None:
        return value.producer.op
    return Place.INPUT if value.constant is None else Place.STORED


class Step(NamedTuple):
    """Fetch an argument and match it: operand number `operand`, or (if that is −1) the argument `name`."""

    operand: int
    name: str
    default: Any
    pattern: Matcher


class Plan:
    """How to match the arguments of nodes of one operator.

    orders: the steps; a second order swaps the first two operands of a commutative operator.
    absent: operands that must be None. defaults: attributes that must have these values.
    """

    __slots__ = ("orders", "absent", "defaults", "variadic", "alpha")

    def __init__(self, op: Op, args: Sequence[Matcher], kwargs: Sequence[tuple[str, Matcher]], rest: bool) -> None:
        self.variadic = any(p.kind is ParamKind.VARIADIC for p in op.params)
        self.alpha = any(p.name == "alpha" for p in op.attribute_params)
        written = dict(zip((p.name for p in op.params), args))
        written.update(kwargs)
        self.orders = [self._steps(op, written)]
        if len(args) >= 2 and _swappable(op):
            first, second = (p.name for p in op.params[:2])
            self.orders.append(self._steps(op, {**written, first: args[1], second: args[0]}))
        left = [] if rest else [p for p in op.params if p.name not in written]
        self.absent = [op.operand_params.index(p) for p in left if p.kind is not ParamKind.ATTRIBUTE]
        self.defaults = [(p.name, p.default) for p in left if p.kind is ParamKind.ATTRIBUTE]

    def _steps(self, op: Op, written: dict[str, Matcher]) -> list[Step]:
        return [self._step(op, param, written[param.name]) for param in op.params if param.name in written]

    def _step(self, op: Op, param: Param, pattern: Matcher) -> Step:
        if param.kind is ParamKind.ATTRIBUTE:
            return Step(-1, param.name, param.default, pattern)
        # Positions shift behind a variadic operand, so such operators are matched by name.
        index = -1 if self.variadic else op.operand_params.index(param)
        return Step(index, param.name, None, pattern)

    def match(self, node: Node, match: Any) -> bool:
        """Match the arguments of `node`; on failure `match` may hold leftovers."""
        if not self._rest_is_default(node):
            return False
        operands = node._operands
        attributes: Any = node.arguments() if self.variadic else node.attributes
        mark = match.mark() if len(self.orders) > 1 else None
        for order in self.orders:
            for operand, name, default, pattern in order:
                if operand < 0:
                    value = attributes.get(name, default)
                else:
                    value = operands[operand] if operand < len(operands) else None
                if not pattern.match(value, match):
                    break
            else:
                return True
            if mark is None:
                return False
            match.reset(mark)
            if self.alpha and node.attributes.get("alpha", 1) != 1:
                return False
        return False

    def may_match(self, first: Source, second: Source) -> bool:
        """False if no node can match whose first two operands come from there."""
        if self.variadic:
            return True
        sources = (first, second)
        return any(
            all(step.pattern.may_match(sources[step.operand]) for step in order if 0 <= step.operand < 2)
            for order in self.orders
        )

    def _rest_is_default(self, node: Node) -> bool:
        attributes = node.attributes
        for name, default in self.defaults:
            if attributes.get(name, default) != default or default is MISSING:
                return False
        if self.variadic and self.absent:
            arguments = node.arguments()
            return not any(arguments[node.op.operand_params[i].name] for i in self.absent)
        operands = node._operands
        return not self.absent or all(i >= len(operands) or operands[i] is None for i in self.absent)


def make_plan(op: Op, args: Sequence[Matcher], kwargs: Sequence[tuple[str, Matcher]], rest: bool) -> Plan | None:
    """Return the plan, or None if no node of `op` can match: the pattern has arguments that the schema lacks."""
    names = [p.name for p in op.params]
    if len(args) > len(names) or any(name not in names for name, _ in kwargs):
        return None
    return Plan(op, args, kwargs, rest)


def _swappable(op: Op) -> bool:
    """Only operands swap: in `add.Scalar` the second argument is an attribute."""
    both = all(p.kind is ParamKind.OPERAND for p in op.params[:2])
    return Trait.COMMUTATIVE in op.traits and both
