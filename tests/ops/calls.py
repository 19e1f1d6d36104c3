"""Random calls of operators: types in place of tensors, some sizes symbolic, mostly valid by construction.

Each sampler draws the operands and attributes of the operators that it is registered for. `spoil` then may change
one thing, so that invalid calls are drawn too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from graphopt.ir import Call, DType, Expr, TensorType, complete, symbol
from graphopt.ir.dims import Dim, substitute
from graphopt.ir.op import SEGMENTS
from graphopt.ir.types import substitute_type
from graphopt.ops import get_op

S, T = symbol("s", 2), symbol("t", 2, multiple_of=2)
BINDINGS = {"s": 4, "t": 6}
"""What the symbols stand for when a call is checked at concrete sizes (no size is 0 or 1 by chance)."""

SIZES: tuple[Dim, ...] = (3, S, 2, T, 1, 4, 6, 2 * S, S + 1, 5, T // 2, 8)
FEW = (DType.F32, DType.F32, DType.F64, DType.F16)
FLOATS = (DType.F32, DType.F64, DType.F16, DType.BF16)
ANY = (DType.F32, DType.I64, DType.BOOL, DType.F16, DType.F64, DType.BF16, DType.I32, DType.U8)

Drawn = tuple[list[TensorType | None], dict[str, Any]]
Sampler = Callable[["Draw"], Drawn]
SAMPLERS: dict[str, Sampler] = {}


def sampler(*names: str) -> Callable[[Sampler], Sampler]:
    """Register a sampler for operators of the aten dialect (names separated by spaces)."""

    def register(function: Sampler) -> Sampler:
        for name in " ".join(names).split():
            assert name not in SAMPLERS, name
            SAMPLERS[name] = function
        return function

    return register


class Draw:
    """What samplers draw from."""

    def __init__(self, draw: Any, op: str) -> None:
        self.draw = draw
        self.op = op

    def one(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(options))

    def integer(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def flag(self) -> bool:
        return bool(self.draw(st.booleans()))

    def dim(self, least: int = 1) -> Dim:
        return self.one([d for d in SIZES if not isinstance(d, int) or d >= least])

    def shape(self, low: int = 0, high: int = 4, least: int = 1) -> tuple[Dim, ...]:
        return tuple(self.dim(least) for _ in range(self.integer(low, high)))

    def dtype(self, options: Sequence[DType] = ANY) -> DType:
        return self.one(options)

    def tensor(self, low: int = 0, high: int = 4, dtypes: Sequence[DType] = ANY, least: int = 1) -> TensorType:
        return TensorType(self.dtype(dtypes), self.shape(low, high, least))

    def axis(self, rank: int) -> int:
        return self.integer(-max(rank, 1), max(rank, 1) - 1)

    def axes(self, rank: int) -> tuple[int, ...]:
        found = [a for a in range(rank) if self.flag()]
        return tuple(a - rank if self.flag() else a for a in found)

    def broadcastable(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """A shape that broadcasts to `shape`."""
        kept = shape[self.integer(0, len(shape)) :] if self.flag() else shape
        return tuple(1 if self.integer(0, 3) == 0 else d for d in kept)

    def number(self) -> Any:
        return self.one((2, 0.5, True, -3, 1.0))

    def optional(self, value: Any) -> Any:
        return value if self.flag() else None


def build(name: str, operands: Sequence[TensorType | None], attributes: dict[str, Any]) -> Call:
    """The call with complete attributes."""
    op = get_op(f"aten.{name}")
    return Call(op, tuple(operands), complete(op, attributes))


def at_sizes(call: Call) -> Call:
    """The call with the symbols' sizes put in."""
    types = tuple(None if t is None else sized(t) for t in call.operand_types)
    attributes = {k: _sized_attribute(v) for k, v in call.attributes.items()}
    return Call(call.op, types, complete(call.op, attributes))


def sized(type_: Any) -> Any:
    """A type with the symbols' sizes put in."""
    return substitute_type(type_, BINDINGS)


def _sized_attribute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_sized_attribute, value))
    return substitute(value, BINDINGS) if isinstance(value, Expr) else value


def spoil(draw: Draw, operands: list[TensorType | None], attributes: dict[str, Any]) -> Drawn:
    """Change one size, rank, dtype or number."""
    operands, attributes = list(operands), dict(attributes)
    present = [i for i, t in enumerate(operands) if t is not None]
    own = {k: v for k, v in attributes.items() if k != SEGMENTS}
    numbers = [k for k, v in own.items() if type(v) is int or (isinstance(v, tuple) and v and type(v[0]) is int)]
    kind = draw.integer(0, 3)
    if kind == 3 and numbers:
        name = draw.one(numbers)
        value, step = attributes[name], draw.one((1, -1, 5, -5))
        changed = value + step if isinstance(value, int) else (value[0] + step, *value[1:])
        return operands, {**attributes, name: changed}
    if not present:
        return operands, attributes
    place = draw.one(present)
    type_ = operands[place]
    assert type_ is not None
    if kind == 0 or not type_.shape:
        operands[place] = type_.with_dtype(draw.dtype())
    elif kind == 1:
        operands[place] = type_.with_shape(type_.shape[1:])
    else:
        dim = draw.integer(0, type_.rank - 1)
        shape = (*type_.shape[:dim], draw.one((0, 1, 7, 2)), *type_.shape[dim + 1 :])
        operands[place] = type_.with_shape(shape)
    return operands, attributes


@st.composite
def calls(draw: Any, name: str) -> Call:
    """A call of one operator, spoiled in one case of three."""
    source = Draw(draw, name)
    operands, attributes = SAMPLERS[name](source)
    if source.integer(0, 2) == 0:
        operands, attributes = spoil(source, operands, attributes)
    return build(name, operands, attributes)
