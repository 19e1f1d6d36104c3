"""How the dims of a value are made up of factors, and how reshapes regroup them.

A dim is a product of factors in row-major order: a flattened `[C, H, W]` keeps its three factors, so unflattening gives
the same axes back, and a dim of symbolic size may hold a factor whose slots are tracked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from math import prod

import numpy as np

from graphopt.analysis.channels.atoms import Ids
from graphopt.ir import Dim, Value
from graphopt.ir.dims import exact_div, known_equal, product


class State(IntEnum):
    """What a removed slot holds in the masked model, over the other dims of its value.

    NORMED: it varies, and would be zero if a norm before it had weights.
    """

    ZERO = 0
    CONSTANT = 1
    NORMED = 2
    VARYING = 3

    @property
    def mixed(self) -> State:
        """What products with other values, or several values side by side, make of it: only zero stays what it is."""
        return self if self in (State.ZERO, State.NORMED) else State.VARYING


@dataclass(frozen=True, eq=False, slots=True)
class Factor:
    """A part of a dim. atoms: `(slots, k)`, or None if nothing in it can be removed, for the reason of that number.

    sources: the dims of constants that this factor is, through views alone.
    """

    size: Dim
    atoms: Ids | None = None
    reason: int = 0
    state: State = State.ZERO
    sources: tuple[tuple[Value, int], ...] = ()

    def with_state(self, state: State) -> Factor:
        """The factor with other contents in its removed slots."""
        return self if self.atoms is None or state is self.state else replace(self, state=state)


Axis = tuple[Factor, ...]


def opaque(size: Dim, reason: int) -> Axis:
    """A dim in which nothing can be removed."""
    return () if size == 1 else (Factor(size, None, reason),)


def is_tracked(axis: Axis) -> bool:
    """True if slots of this dim may be removable."""
    return any(f.atoms is not None for f in axis)


def axis_state(axis: Axis) -> State:
    """The worst state among the factors."""
    return max((f.state for f in axis if f.atoms is not None), default=State.ZERO)


def factor_states(axis: Axis, finer: Axis) -> list[State]:
    """The states of a dim for each factor of its structure after coupling."""
    if len(axis) == len(finer) and all(same(f.size, g.size) for f, g in zip(axis, finer)):
        return [f.state if f.atoms is not None else State.ZERO for f in axis]
    return [axis_state(axis)] * len(finer)


def varying(axis: Axis) -> Axis:
    """The factors whose removed slots vary over the other dims."""
    return tuple([f for f in axis if f.atoms is not None and f.state >= State.NORMED])


def not_zero(axis: Axis) -> Axis:
    """The factors whose removed slots may hold something else than zero."""
    return tuple([f for f in axis if f.atoms is not None and f.state is not State.ZERO])


def zero_or_varying(axis: Axis) -> Axis:
    """What products with other values, or several values side by side, make of a dim."""
    return tuple([f.with_state(f.state.mixed) for f in axis])


def zero_if_any(axis: Axis, parts: Sequence[Axis]) -> Axis:
    """The dim of a product, coupled from those of its operands: zero where one of them is."""
    by_part = [factor_states(part, axis) for part in parts]
    result = []
    for place, factor in enumerate(axis):
        states = [found[place] for found in by_part]
        zero = State.ZERO in states
        result.append(factor.with_state(State.ZERO if zero else max((s.mixed for s in states), default=State.VARYING)))
    return tuple(result)


def axis_size(axis: Axis) -> Dim:
    """The number of slots."""
    return product(f.size for f in axis)


def with_state(axis: Axis, state: State) -> Axis:
    """The dim with other contents in its removed slots."""
    return tuple([f.with_state(state) for f in axis])


def merged(factors: Sequence[Factor]) -> Factor:
    """One factor with the slots of several static ones, row-major."""
    if len(factors) == 1:
        return factors[0]
    sizes = [as_int(f.size) for f in factors]
    columns = []
    for i, factor in enumerate(factors):
        if factor.atoms is not None:
            inner, outer = prod(sizes[i + 1 :]), prod(sizes[:i])
            columns.append(np.tile(np.repeat(factor.atoms, inner, axis=0), (outer, 1)))
    sources = tuple(dict.fromkeys(s for f in factors for s in f.sources))
    if not columns:
        return Factor(prod(sizes), None, factors[0].reason, State.ZERO, sources)
    return Factor(prod(sizes), np.concatenate(columns, axis=1), 0, axis_state(tuple(factors)), sources)


def as_int(size: Dim) -> int:
    """A size that is known to be an int."""
    assert isinstance(size, int)
    return size


def is_static(factors: Sequence[Factor]) -> bool:
    """True if all sizes are ints."""
    return all(isinstance(f.size, int) for f in factors)


def quotient(a: Dim, b: Dim) -> Dim | None:
    """a / b if it is known to be exact and more than 1."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 and a > b else None
    found = exact_div(a, b)
    return None if found is None or found == 1 else found


def same(a: Dim, b: Dim) -> bool:
    """Known equal sizes."""
    return known_equal(a, b)
