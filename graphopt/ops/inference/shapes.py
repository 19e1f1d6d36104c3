"""Shape arithmetic that the rules share: broadcasting with symbolic dims, and normalised dim numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir import TensorType
from graphopt.ir.dims import Dim, equal
from graphopt.ops.inference.table import Mismatch

Shape = tuple[Dim, ...]


def broadcast(*shapes: Shape) -> Shape:
    """The broadcast shape.

    Raises:
        Mismatch: two dims are known to differ and neither can be 1.
    """
    result = shapes[0]
    for shape in shapes[1:]:
        if shape != result:
            result = _broadcast_two(result, shape)
    return result


def _broadcast_two(a: Shape, b: Shape) -> Shape:
    if len(a) < len(b):
        return (*b[: len(b) - len(a)], *[broadcast_dim(y, x) for x, y in zip(b[len(b) - len(a) :], a)])
    offset = len(a) - len(b)
    return (*a[:offset], *[broadcast_dim(x, y) for x, y in zip(a[offset:], b)])


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """One dim of a broadcast.

    Where it is unknown whether two dims are equal, they are taken to be: the size that is known not to be 1 wins,
    else the first. (PyTorch's export decides the same: a dynamic size is never 1 by chance.)

    Raises:
        Mismatch: the dims are known to differ and neither can be 1.
    """
    if a is b or a == b:
        return a
    if b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int):
        if isinstance(b, int) or (equal(a, b) is False and equal(b, 1) is False):
            raise Mismatch(f"sizes {a} and {b} do not broadcast")
        return a
    if isinstance(b, int):
        return broadcast_dim(b, a)
    a_is_one, b_is_one = equal(a, 1), equal(b, 1)
    if a_is_one is False:
        if b_is_one is False and equal(a, b) is False:
            raise Mismatch(f"sizes {a} and {b} do not broadcast")
        return a
    return b if b_is_one is False else a


def wrap(dim: int, rank: int, what: str = "dim") -> int:
    """A dim number in [0, rank); a scalar has the dims 0 and -1, as in PyTorch.

    Raises:
        Mismatch: out of range.
    """
    limit = rank or 1
    if not -limit <= dim < limit:
        raise Mismatch(f"{what} {dim} is out of range for a tensor of rank {rank}")
    return dim % limit


def wrap_all(dims: Any, rank: int) -> list[int]:
    """Several dim numbers, each in [0, rank), none twice.

    Raises:
        Mismatch: out of range, or a dim appears twice.
    """
    found = [wrap(dim, rank) for dim in dims]
    if len(set(found)) != len(found):
        raise Mismatch(f"a dim appears twice in {tuple(dims)}")
    return found


def require_equal(a: Dim, b: Dim, what: str) -> None:
    """Refuse dims that are known to differ.

    Raises:
        Mismatch: they are known to differ.
    """
    if a is b or a == b:
        return
    if equal(a, b) is False:
        raise Mismatch(f"{what}: {a} and {b}")


def require_rank(x: TensorType, *ranks: int, what: str = "input") -> None:
    """Refuse a tensor of another rank.

    Raises:
        Mismatch: the rank is none of `ranks`.
    """
    if len(x.shape) not in ranks:
        raise Mismatch(f"the {what} has rank {len(x.shape)}, not {' or '.join(map(str, ranks))}")


def pair(value: Any, count: int) -> tuple[Dim, ...]:
    """A per-dimension attribute: one value stands for all dims."""
    items = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(items) == 1:
        return items * count
    if len(items) != count:
        raise Mismatch(f"{items} has {len(items)} values for {count} dims")
    return items
