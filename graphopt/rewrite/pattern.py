"""Patterns over the producers of a value, and the match that they bind.

    x, w = var("x"), var("w")
    aten.add(x, 0)                          # any overload of aten.add; 0 is a number or a uniform constant tensor
    aten.relu(aten.conv2d(x, w, ...))       # `...` accepts the arguments that are not written
    optional(aten.relu, x)                  # relu(x) or x itself

Arguments stand in schema order, operands and attributes alike; keywords name them. Commutative operators match in
both orders. A pattern says nothing of uses unless `single_use` asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from graphopt.ir import ConstantKind, DType, Node, Op, TensorType, Value
from graphopt.ir.attributes import attribute_key
from graphopt.rewrite.plan import Place, Plan, Source, make_plan
from graphopt.rewrite.uniform import uniform_value

Guard = Callable[[Any], bool]

_NOT_PLANNED: Any = object()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a match must know of the graph around it.

    trainable: whether the result is to be trained, so that what is in the state dict now says nothing of later.
    updated: names of the stored tensors that the graph writes back to, whose values change from call to call.
    """

    trainable: bool = False
    updated: frozenset[str] = frozenset()

    def is_fixed(self, value: Any) -> bool:
        """True for a stored tensor whose value may be relied on."""
        constant = value.constant if isinstance(value, Value) else None
        if constant is None or value.name in self.updated:
            return False
        if not self.trainable or constant.kind is ConstantKind.CONSTANT:
            return True
        return not (constant.requires_grad or constant.persistent)


ALONE = Surroundings()


@dataclass(slots=True)
class Match:
    """What a pattern bound: values and attributes by name, and the nodes that it covered, root first."""

    root: Node
    surroundings: Surroundings = ALONE
    bindings: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.bindings[name]

    def __contains__(self, name: str) -> bool:
        return name in self.bindings

    def node(self, name: str) -> Node:
        """The node that an operator pattern named `name` matched."""
        node = self.bindings[name]
        assert isinstance(node, Node)
        return node

    def clear(self) -> None:
        """Forget what was bound."""
        self.bindings.clear()
        self.nodes.clear()

    def mark(self) -> tuple[int, int]:
        """A point to return to with `reset`."""
        return len(self.bindings), len(self.nodes)

    def reset(self, mark: tuple[int, int]) -> None:
        """Forget what was bound since `mark`."""
        while len(self.bindings) > mark[0]:
            self.bindings.popitem()
        del self.nodes[mark[1] :]


class Pattern:
    """Matches a value (an operand) or an attribute."""

    def match(self, value: Any, match: Match) -> bool:
        """Match `value`, adding to `match`; on failure `match` may hold leftovers that the caller resets."""
        raise NotImplementedError

    def may_match(self, source: Source) -> bool:
        """False only if no operand that comes from `source` can match."""
        return True


@dataclass(frozen=True, slots=True)
class Var(Pattern):
    """Any value or attribute; a name that occurs twice must match the same one."""

    name: str
    where: Guard | None = None

    def match(self, value: Any, match: Match) -> bool:
        if self.name in match.bindings:
            bound = match.bindings[self.name]
            # 1 and 1.0, 0.0 and −0.0 are equal to Python, but not to an operator.
            return bound is value or attribute_key(bound) == attribute_key(value)
        if self.where is not None and not self.where(value):
            return False
        match.bindings[self.name] = value
        return True


@dataclass(frozen=True, slots=True)
class Number(Pattern):
    """A number: an attribute that equals it, or a constant tensor whose every element does. −0.0 is not 0.0.

    rounded: what it was rounded to, when a model was written, is accepted too.
    """

    number: float
    rounded: bool = False

    def match(self, value: Any, match: Match) -> bool:
        if isinstance(value, Value):
            found = uniform_value(value) if match.surroundings.is_fixed(value) else None
        elif isinstance(value, bool) or not isinstance(value, int | float):
            return False
        else:
            found = value
        if found is None:
            return False
        if self.rounded:
            return is_rounding_of(found, self.number, value)
        return found == self.number and math.copysign(1, found) == math.copysign(1, self.number)

    def may_match(self, source: Source) -> bool:
        return source is Place.STORED


@dataclass(frozen=True, slots=True)
class Literal(Pattern):
    """An attribute with exactly this value (or an absent operand, for None)."""

    value: Any

    def match(self, value: Any, match: Match) -> bool:
        return not isinstance(value, Value) and type(value) is type(self.value) and value == self.value

    def may_match(self, source: Source) -> bool:
        return source is Place.ABSENT


@dataclass(frozen=True, slots=True)
class Stored(Pattern):
    """A stored tensor whose value may be relied on: not updated by the graph, not trained."""

    name: str

    def match(self, value: Any, match: Match) -> bool:
        if not match.surroundings.is_fixed(value):
            return False
        return Var(self.name).match(value, match)

    def may_match(self, source: Source) -> bool:
        return source is Place.STORED


@dataclass(frozen=True, slots=True)
class Produced(Pattern):
    """The first result of a node of one of several operators; binds the node."""

    bases: frozenset[str]
    name: str
    single_use: bool = False

    @property
    def once(self) -> Produced:
        """Require that the result has a single use."""
        return Produced(self.bases, self.name, True)

    def match(self, value: Any, match: Match) -> bool:
        if not isinstance(value, Value):
            return False
        producer = value.producer
        if producer is None or producer.op.base not in self.bases or value.index:
            return False
        if self.single_use and len(value._uses) != 1:
            return False
        match.bindings[self.name] = producer
        match.nodes.append(producer)
        return True

    def may_match(self, source: Source) -> bool:
        return isinstance(source, Op) and source.base in self.bases


@dataclass(frozen=True, slots=True)
class Optional(Pattern):
    """`op(inner)` or, failing that, `inner` itself."""

    op: OpPattern
    inner: Pattern

    def match(self, value: Any, match: Match) -> bool:
        mark = match.mark()
        if self.op.match(value, match):
            return True
        match.reset(mark)
        return self.inner.match(value, match)

    def may_match(self, source: Source) -> bool:
        return self.op.may_match(source) or self.inner.may_match(source)


@dataclass(frozen=True, slots=True)
class Either(Pattern):
    """The first of several patterns that matches."""

    choices: tuple[Pattern, ...]

    def match(self, value: Any, match: Match) -> bool:
        mark = match.mark()
        for choice in self.choices:
            if choice.match(value, match):
                return True
            match.reset(mark)
        return False

    def may_match(self, source: Source) -> bool:
        return any(choice.may_match(source) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class OpPattern(Pattern):
    """A result of an operator. `base` is `dialect.name` (any overload) or a full name.

    rest: whether arguments that are not written are free; else they must have their defaults.
    single_use: the matched result must have no other use.
    """

    base: str
    args: tuple[Pattern, ...] = ()
    kwargs: tuple[tuple[str, Pattern], ...] = ()
    rest: bool = False
    name: str = ""
    single_use: bool = False
    result: int = 0
    _plans: dict[Op, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def named(self, name: str) -> OpPattern:
        """Bind the matched node under `name`."""
        return OpPattern(self.base, self.args, self.kwargs, self.rest, name, self.single_use, self.result)

    @property
    def once(self) -> OpPattern:
        """Require that the result has a single use."""
        return OpPattern(self.base, self.args, self.kwargs, self.rest, self.name, True, self.result)

    def match(self, value: Any, match: Match) -> bool:
        if not isinstance(value, Value):
            return False
        producer = value.producer
        if producer is None or value.index != self.result:
            return False
        if self.single_use and len(value._uses) != 1:
            return False
        return self.match_node(producer, match)

    def may_match(self, source: Source) -> bool:
        return isinstance(source, Op) and self.base in (source.name, source.base)

    def may_be_root(self, op: Op, first: Source, second: Source) -> bool:
        """False only if no node of `op` can match as the root whose first two operands come from there."""
        plan = self._planned(op)
        return plan is not None and plan.may_match(first, second)

    def match_node(self, node: Node, match: Match) -> bool:
        """Match a node as the root."""
        plan = self._planned(node.op)
        if plan is None:
            return False
        match.nodes.append(node)
        if self.name:
            match.bindings[self.name] = node
        return plan.match(node, match)

    def _planned(self, op: Op) -> Plan | None:
        plan = self._plans.get(op, _NOT_PLANNED)
        if plan is _NOT_PLANNED:
            known = self.base in (op.name, op.base)
            plan = self._plans[op] = make_plan(op, self.args, self.kwargs, self.rest) if known else None
        return plan


def var(name: str, where: Guard | None = None) -> Var:
    """A pattern that binds a value or attribute under `name`, if `where` accepts it."""
    return Var(name, where)


def constant(name: str) -> Stored:
    """A pattern that binds a stored tensor whose value may be relied on: neither updated nor trained."""
    return Stored(name)


def rounded(number: float) -> Number:
    """A pattern for a number that is irrational, or else seldom exact, such as √2: any of its roundings matches.

    An operator that knows the number exactly and takes its place must be one of `graphopt.ops.traits.HOLDS_NUMBERS`, so
    that validation allows for the rounding.
    """
    return Number(number, True)


def is_rounding_of(found: float, number: float, value: Any = None) -> bool:
    """True if `found` is `number` to the last digits of single precision, or of the half precision of a tensor."""
    dtype = value.type.dtype if isinstance(value, Value) and isinstance(value.type, TensorType) else None
    tolerance = 2.0**-10 if dtype is DType.F16 else 2.0**-7 if dtype is DType.BF16 else 2.0**-22
    return abs(found - number) <= abs(number) * tolerance


def produced_by(bases: Iterable[str], name: str) -> Produced:
    """A pattern for the first result of any of several operators, given by base name; binds the node under `name`."""
    return Produced(frozenset(bases), name)


def to_pattern(value: Any) -> Pattern:
    """Turn a number, string, tuple or None in a pattern into a pattern."""
    if isinstance(value, Pattern):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Number(value)
    return Literal(value)


class _Op:
    """Builds patterns of one operator: calling it gives an `OpPattern`."""

    def __init__(self, base: str) -> None:
        self.base = base

    def __call__(self, *args: Any, **kwargs: Any) -> OpPattern:
        rest = bool(args) and isinstance(args[-1], EllipsisType)
        given = args[:-1] if rest else args
        named = tuple((name, to_pattern(value)) for name, value in kwargs.items())
        return OpPattern(self.base, tuple(map(to_pattern, given)), named, rest)

    def __getattr__(self, overload: str) -> _Op:
        if overload.startswith("__"):
            raise AttributeError(overload)
        return _Op(f"{self.base}.{overload}")


class Dialect:
    """Builds patterns of a dialect's operators: `aten.relu(x)`, `aten.add.Scalar(x, 1)`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, op: str) -> _Op:
        if op.startswith("__"):
            raise AttributeError(op)
        return _Op(f"{self.name}.{op}")


aten = Dialect("aten")


def optional(op: Callable[..., OpPattern], inner: Any, *args: Any, **kwargs: Any) -> Optional:
    """`op(inner, …)` or `inner`."""
    pattern = to_pattern(inner)
    return Optional(op(pattern, *args, **kwargs), pattern)


def either(*choices: Any) -> Either:
    """The first that matches."""
    return Either(tuple(map(to_pattern, choices)))


def wants_single_use(value: Value, others: int) -> str:
    """Why a rule declines a value that `others` uses read besides what it replaces."""
    return f"%{value.name or '?'} has {others} other use{'s' if others != 1 else ''}, the rule wants a single one"
