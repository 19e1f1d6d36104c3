"""Dimensions in another algebra: FX nodes, ONNX values, sympy, source text.

A backend that needs a size at run time says what a symbol, a constant and each operation become; the walk
over the expression is here, so that nothing outside of the IR depends on how expressions are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Literal, TypeVar

from graphopt.ir.dim_expr import Atom, Dim, FloorDiv, Monomial, Symbol, split_units

T = TypeVar("T")
DimOperation = Literal["add", "sub", "mul", "floordiv", "max", "min"]


def lower_dim(
    dim: Dim,
    symbol: Callable[[Symbol], T],
    constant: Callable[[int], T],
    apply: Callable[[DimOperation, T, T], T],
) -> T:
    """The value of a dimension built from `symbol(s)`, `constant(n)` and `apply(operation, left, right)`.

    `floordiv` rounds towards minus infinity. Terms are visited in the order of the text form; no product
    with 1 and no sum with 0 is built.

    >>> from graphopt.ir.dims import parse_dim
    >>> dim = parse_dim("max(2*s - 1, 3)", {"s": Symbol("s")})
    >>> lower_dim(dim, lambda s: s.name, str, lambda operation, a, b: f"{operation}({a}, {b})")
    'sub(mul(2, max(s, 2)), 1)'
    """
    return _Lowering(symbol, constant, apply).dim(dim)


class _Lowering(Generic[T]):
    def __init__(
        self,
        symbol: Callable[[Symbol], T],
        constant: Callable[[int], T],
        apply: Callable[[DimOperation, T, T], T],
    ) -> None:
        self.symbol = symbol
        self.constant = constant
        self.apply = apply

    def dim(self, dim: Dim) -> T:
        if isinstance(dim, int):
            return self.constant(dim)
        positive = [term for term in dim.terms if term[1] > 0]
        negative = [term for term in dim.terms if term[1] < 0]
        if positive:
            total = self.term(*positive[0])
        else:
            monomial, coefficient = negative.pop(0)
            total = self.apply("mul", self.constant(coefficient), self.term(monomial, 1))
        for monomial, coefficient in positive[1:]:
            total = self.apply("add", total, self.term(monomial, coefficient))
        for monomial, coefficient in negative:
            total = self.apply("sub", total, self.term(monomial, -coefficient))
        return total

    def term(self, monomial: Monomial, coefficient: int) -> T:
        scale, factors = split_units(monomial, coefficient)
        values = [self.constant(scale)] if scale != 1 or not factors else []
        values += [self.factor(atom, divisor) for atom, divisor in factors]
        result = values[0]
        for value in values[1:]:
            result = self.apply("mul", result, value)
        return result

    def factor(self, atom: Atom, divisor: int) -> T:
        if isinstance(atom, Symbol):
            value = self.symbol(atom)
            return value if divisor == 1 else self.apply("floordiv", value, self.constant(divisor))
        if isinstance(atom, FloorDiv):
            return self.apply("floordiv", self.dim(atom.numerator), self.dim(atom.divisor))
        result = self.dim(atom.args[0])
        for arg in atom.args[1:]:
            result = self.apply("max" if atom.largest else "min", result, self.dim(arg))
        return result
