"""Operators: schema, traits and behaviour. The IR knows no operator by name; dialects register them (L1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from graphopt.ir.attributes import EMPTY, Attributes
from graphopt.ir.types import Type

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


class Trait(Enum):
    """What an analysis may assume of an operator. Without a trait, it assumes the worst."""

    PURE = auto()
    """The results depend on the operands and attributes alone, and nothing else happens."""
    RANDOM = auto()
    """Draws random numbers."""
    EFFECT = auto()
    """Does something that the results don't show; never removed, merged or moved."""
    COMMUTATIVE = auto()
    """f(x, y) = f(y, x) in the first two operands."""
    ELEMENTWISE = auto()
    """Each element of the result depends on the elements at the same (broadcast) index only."""
    IDEMPOTENT = auto()
    """f(f(x)) = f(x)."""
    INVOLUTION = auto()
    """f(f(x)) = x."""
    VIEW = auto()
    """Moves or selects elements without computing on them."""
    DATA_DEPENDENT = auto()
    """The shape of a result depends on the values of the operands."""
    REGION = auto()
    """Control flow: runs its regions."""
    STEPS = auto()
    """A step function of an operand with steps all over its range: rounding decides which one a number falls to."""
    DECODES = auto()
    """Turns a compact stored form into numbers: not folded, since that would undo the storage."""

    __hash__ = object.__hash__


class ParamKind(Enum):
    """How a parameter of a schema is filled."""

    OPERAND = auto()
    OPTIONAL = auto()
    VARIADIC = auto()
    ATTRIBUTE = auto()

    __hash__ = object.__hash__


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: `type` is the schema's type text (`"int[]"`, `"float"`, `"dtype"`, …)."""

    name: str
    kind: ParamKind
    type: str = "Tensor"
    default: Any = MISSING


@dataclass(frozen=True, slots=True)
class Call:
    """An application of an operator, as type inference sees it: types in place of values."""

    op: Op
    operand_types: tuple[Type | None, ...]
    attributes: Attributes
    regions: tuple[Graph, ...] = ()

    def arguments(self) -> dict[str, Any]:
        """Bind parameter names to operand types (tuples for variadic ones) and attributes."""
        return self.op.bind_names(self.operand_types, self.attributes)


InferFn = Callable[[Call], Sequence[Type]]


@dataclass(frozen=True, eq=False, slots=True)
class Op:
    """An operator. Compared by identity: a registry holds one object per name.

    base: the name without the overload (`aten.add` of `aten.add.Tensor`).
    infer: result types from operand types and attributes.
    evaluate: the reference semantics on torch tensors, called with the schema's arguments by name.
    open: a node may have attributes beyond the schema; they go to `evaluate` by name, too.
    variadics: how many parameters take any number of operands.
    defaults: the attributes of a node that is given none, one object for all nodes; None if some must be given.
    """

    name: str
    params: tuple[Param, ...]
    traits: frozenset[Trait] = frozenset()
    infer: InferFn | None = None
    evaluate: Callable[..., Any] | None = None
    open: bool = False
    base: str = field(init=False)
    operand_params: tuple[Param, ...] = field(init=False)
    attribute_params: tuple[Param, ...] = field(init=False)
    variadics: int = field(init=False)
    defaults: Attributes | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", ".".join(self.name.split(".", 2)[:2]))
        operands = tuple(p for p in self.params if p.kind is not ParamKind.ATTRIBUTE)
        attributes = tuple(p for p in self.params if p.kind is ParamKind.ATTRIBUTE)
        variadics = sum(p.kind is ParamKind.VARIADIC for p in operands)
        object.__setattr__(self, "operand_params", operands)
        object.__setattr__(self, "attribute_params", attributes)
        object.__setattr__(self, "variadics", variadics)
        object.__setattr__(self, "defaults", None if variadics > 1 else _defaults(attributes))

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    @property
    def dialect(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]

    def has(self, trait: Trait) -> bool:
        """True if the operator declares `trait`."""
        return trait in self.traits

    @property
    def is_removable(self) -> bool:
        """True if a node without uses may be dropped, as far as the operator tells: `ops.effects` asks the node."""
        if Trait.EFFECT in self.traits or Trait.DATA_DEPENDENT in self.traits:
            return False
        return Trait.PURE in self.traits or Trait.RANDOM in self.traits

    def bind_names(self, operands: Sequence[Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Map each parameter's name to its operand, tuple of operands, or attribute."""
        bound: dict[str, Any] = {}
        position = 0
        for param, count in zip(self.operand_params, self.segments(len(operands), attributes)):
            if param.kind is ParamKind.VARIADIC:
                bound[param.name] = tuple(operands[position : position + count])
            else:
                bound[param.name] = operands[position] if count else None
            position += count
        for param in self.attribute_params:
            if param.name in attributes:
                bound[param.name] = attributes[param.name]
            elif param.default is not MISSING:
                bound[param.name] = param.default
        if self.open:
            bound.update((name, value) for name, value in attributes.items() if name not in bound)
        return bound

    def segments(self, count: int, attributes: Mapping[str, Any]) -> tuple[int, ...]:
        """Return how many operands each operand parameter takes, for `count` operands in all.

        With two or more variadic parameters the attribute `operand_segment_sizes` says it.
        """
        if SEGMENTS in attributes:
            return tuple(attributes[SEGMENTS])
        params = self.operand_params
        if not self.variadics:
            return (1,) * count + (0,) * (len(params) - count)
        rest = count - (len(params) - self.variadics)
        return tuple(1 if p.kind is not ParamKind.VARIADIC else rest for p in params)


def _defaults(params: Sequence[Param]) -> Attributes | None:
    if any(p.default is MISSING for p in params):
        return None
    return Attributes({p.name: p.default for p in params}) if params else EMPTY


SEGMENTS = "operand_segment_sizes"
