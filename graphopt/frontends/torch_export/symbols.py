"""Symbols and types: from PyTorch's symbolic sizes to IR dims, with readable names and ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import lcm
from typing import Any

import torch

from graphopt.errors import CaptureError
from graphopt.ir import Expr, NoneType, ScalarKind, ScalarType, TensorType, Type, from_torch, symbol
from graphopt.ir.dims import Dim
from graphopt.ops.sympy_bridge import dim_from_sympy

_UNBOUNDED = 1 << 62
_DEFAULT_MINIMUM = 2
"""What PyTorch gives as the lower end of a dynamic size that nobody bounded: an artefact of tracing, not a fact."""

SCALAR_KINDS: dict[type, ScalarKind] = {int: ScalarKind.INT, float: ScalarKind.FLOAT, bool: ScalarKind.BOOL}


class SymbolTable:
    """The IR dims of one exported program's symbolic sizes.

    ranges: value ranges by sympy symbol. names: the user's names by the sympy symbol's name; symbols without one
    are called s0, s1, … in order of appearance, and u0, u1, … if they depend on data.
    exact: names of symbols whose lower bound the user gave. divisors: what divides a symbol, by its sympy name.
    """

    def __init__(
        self,
        ranges: Mapping[Any, Any],
        names: Mapping[str, str] | None = None,
        exact: frozenset[str] = frozenset(),
        divisors: Mapping[str, int] | None = None,
    ) -> None:
        self._divisors = dict(divisors or {})
        self._ranges = {str(key): value for key, value in ranges.items()}
        self._names = dict(names or {})
        self._exact = exact
        self._taken = set(self._names.values())
        self._counters = {"s": 0, "u": 0}
        self._dims: dict[Any, Dim] = {}
        self._symbols = _OnDemand(self._create)

    def dim(self, size: int | torch.SymInt) -> Dim:
        """Return the dim of a size."""
        if isinstance(size, int):
            return size
        return self.from_sympy(size.node.expr)

    def from_sympy(self, expression: Any) -> Dim:
        """Return the dim of a sympy integer expression."""
        found = self._dims.get(expression)
        if found is None:
            found = self._dims[expression] = dim_from_sympy(expression, self._symbols)
        return found

    def type_of(self, value: Any) -> Type:
        """Return the IR type of a traced value (`node.meta["val"]`).

        Raises:
            CaptureError: a kind of value that graphs cannot carry.
        """
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided:
                raise CaptureError(
                    f"a {value.layout} tensor of shape {tuple(value.shape)} cannot be captured; "
                    "convert it with .to_dense() in the model"
                )
            return TensorType(from_torch(value.dtype), tuple([self.dim(d) for d in value.shape]), str(value.device))
        if isinstance(value, torch.SymInt):
            return ScalarType(ScalarKind.INT, self.dim(value))
        if isinstance(value, int | float | bool):
            return ScalarType(SCALAR_KINDS[type(value)], value if type(value) is int else None)
        if isinstance(value, torch.SymFloat):
            return ScalarType(ScalarKind.FLOAT)
        if isinstance(value, torch.SymBool):
            return ScalarType(ScalarKind.BOOL)
        if value is None:
            return NoneType()
        raise CaptureError(f"a value of type {type(value).__name__} cannot be captured")

    def _create(self, name: str) -> Expr:
        family = "u" if name.startswith(("u", "zu")) else "s"
        label = self._names.get(name) or self._fresh(family)
        low, high = self._bounds(name)
        if family == "s" and low == _DEFAULT_MINIMUM and label not in self._exact:
            low = 0
        return symbol(label, low, high, self._divisors.get(name, 1))

    def _fresh(self, family: str) -> str:
        while True:
            label = f"{family}{self._counters[family]}"
            self._counters[family] += 1
            if label not in self._taken:
                self._taken.add(label)
                return label

    def _bounds(self, name: str) -> tuple[int, int | None]:
        found = self._ranges.get(name)
        if found is None:
            return 0, None
        low = int(found.lower) if found.lower.is_Integer else -_UNBOUNDED
        high = int(found.upper) if found.upper.is_Integer else None
        return low, None if high is None or high >= _UNBOUNDED else high


def divisors_in(traced: Iterable[Any]) -> dict[str, int]:
    """Return what tracing found to divide each symbol (`x.view(4, -1)` needs a multiple of 4), by its sympy name.

    traced: the traced inputs. A deserialized program doesn't keep this.
    """
    found: dict[str, int] = {}
    sizes: Iterable[Any] = (size for value in traced if isinstance(value, torch.Tensor) for size in value.shape)
    environment = next((size.node.shape_env for size in sizes if isinstance(size, torch.SymInt)), None)
    for remainder in getattr(environment, "divisible", ()):
        base, divisor = remainder.args
        if base.is_Symbol and divisor.is_Integer:
            found[str(base)] = lcm(found.get(str(base), 1), int(divisor))
    return found


class _OnDemand(dict[str, Dim]):
    """A mapping that makes its missing entries."""

    def __init__(self, create: Any) -> None:
        super().__init__()
        self._make = create

    def __missing__(self, name: str) -> Dim:
        self[name] = made = self._make(name)
        return made
