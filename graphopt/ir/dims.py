"""Symbolic dimensions: ints and integer polynomials over named symbols.

A dimension is an int or an `Expr`. Arithmetic keeps expressions in a normal form (see `dim_expr`), so most
equal dimensions are equal Python objects; `equal`, `less` and their kin decide the rest where they can, and
answer None where they cannot. The bounds and the divisibility of symbols are used throughout; results hold
for values within them.

>>> height = symbol("h", min=1)
>>> def conv_output(size, kernel, stride, padding, dilation=1):
...     return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
>>> print(conv_output(height, 3, 2, 1))
(h + 1)//2
>>> equal(conv_output(height, 3, 2, 1), ceildiv(height, 2))
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import gcd

from graphopt.ir.dim_bounds import bounds
from graphopt.ir.dim_expr import (
    Atom,
    Dim,
    DimError,
    Expr,
    Extremum,
    FloorDiv,
    Symbol,
    Term,
    from_atom,
    from_symbol,
    from_terms,
    symbol,
    terms_of,
)
from graphopt.ir.dim_lower import DimOperation, lower_dim
from graphopt.ir.dim_ops import ceildiv, dim_max, dim_min, floordiv, mod, product
from graphopt.ir.dim_ops import exact_div as _exact_div
from graphopt.ir.dim_text import DimParseError, format_symbol, parse_dim, parse_dim_prefix

__all__ = [
    "Dim",
    "DimError",
    "DimOperation",
    "DimParseError",
    "Expr",
    "Symbol",
    "UnboundSymbolError",
    "bounds",
    "ceildiv",
    "dim_max",
    "dim_min",
    "divisible",
    "equal",
    "evaluate",
    "exact_div",
    "floordiv",
    "format_symbol",
    "from_symbol",
    "known_equal",
    "less",
    "less_equal",
    "linear_in",
    "lower_dim",
    "mod",
    "parse_dim",
    "parse_dim_prefix",
    "product",
    "shapes_known_equal",
    "substitute",
    "symbol",
    "symbols_of",
]


class UnboundSymbolError(DimError):
    """An expression was evaluated without a value for one of its symbols."""


# ------------------------------------------------------------------------------ three-valued questions


def equal(a: Dim, b: Dim) -> bool | None:
    """Whether a and b have the same value: always (True), never (False), or not known (None)."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    if a == b:
        return True
    difference = canonical(a - b)
    if isinstance(difference, int):
        return difference == 0
    low, high = bounds(difference)
    if (low is not None and low > 0) or (high is not None and high < 0):
        return False
    if low == 0 == high:
        return True
    step = gcd(*[c for _, c in difference.variable_terms()])
    return False if difference.constant() % step else None


def known_equal(a: Dim, b: Dim) -> bool:
    """Whether a and b are known to have the same value always."""
    return a == b or equal(a, b) is True


def shapes_known_equal(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether two shapes have the same rank and dimensions known to be equal."""
    return len(a) == len(b) and all(map(known_equal, a, b))


def less_equal(a: Dim, b: Dim) -> bool | None:
    """Whether a <= b: always (True), never (False), or not known (None)."""
    if isinstance(a, int) and isinstance(b, int):
        return a <= b
    difference = b - a
    low, high = bounds(difference)
    if low is not None and low >= 0:
        return True
    if high is not None and high < 0:
        return False
    low, high = bounds(canonical(difference))
    if low is not None and low >= 0:
        return True
    return False if high is not None and high < 0 else None


def less(a: Dim, b: Dim) -> bool | None:
    """Whether a < b: always (True), never (False), or not known (None)."""
    return less_equal(a + 1, b)


def divisible(a: Dim, n: Dim) -> bool | None:
    """Whether n divides a: always (True), never (False), or not known (None). 0 divides 0 alone."""
    if isinstance(n, Expr):
        return True if exact_div(a, n) is not None else None
    if n == 0:
        return equal(a, 0)
    a = canonical(a)
    if isinstance(a, int):
        return a % n == 0
    step = gcd(n, *[c for _, c in a.variable_terms()])
    if a.constant() % step:
        return False
    return True if step == abs(n) else None


def exact_div(a: Dim, b: Dim) -> Dim | None:
    """The dimension q for which `q*b == a` identically, if one is found; else None.

    The identity holds for all values of the symbols, those that make b zero included. b == 0 gives None.

    >>> s = symbol("s")
    >>> exact_div(product([s, 16, 4]), product([s, 8]))
    8
    """
    quotient = _exact_div(a, b)
    if quotient is None and not (isinstance(a, int) and isinstance(b, int)):
        quotient = _exact_div(canonical(a), canonical(b))
    return quotient


def canonical(dim: Dim) -> Dim:
    """A form in which expressions differing only in how divisions by constants were written agree.

    `floor(r/k)` depends on r's coefficients modulo k, and `-floor(r/k)` is `floor((k - 1 - r)/k)`. The
    normal form keeps signs, for legibility; here coefficients are reduced to [0, k), and of r and
    `k - 1 - r` the one with the smaller coefficients is taken.
    """
    if isinstance(dim, int) or not any(isinstance(a, (FloorDiv, Extremum)) for m, _ in dim.terms for a in m):
        return dim
    return _map_atoms(dim, _canonical_atom)


def _canonical_atom(atom: Atom) -> Dim:
    if isinstance(atom, Symbol):
        return from_atom(atom)
    if isinstance(atom, Extremum):
        args = [canonical(arg) for arg in atom.args]
        return dim_max(*args) if atom.largest else dim_min(*args)
    top, k = canonical(atom.numerator), canonical(atom.divisor)
    if not (isinstance(top, Expr) and isinstance(k, int) and k > 0):
        return floordiv(top, k)
    whole, rest = _floor_residues(terms_of(top), k)
    flipped_whole, flipped = _floor_residues(terms_of(k - 1 - top), k)
    if isinstance(rest, int) or isinstance(flipped, int):
        return whole
    if [c for _, c in flipped.terms] + [flipped.constant()] < [c for _, c in rest.terms] + [rest.constant()]:
        return -(flipped_whole + from_atom(FloorDiv(flipped, k)))
    return whole + from_atom(FloorDiv(rest, k))


def _floor_residues(terms: Iterable[Term], k: int) -> tuple[Dim, Dim]:
    """(q, r) with terms == k*q + r and all coefficients of r in [0, k)."""
    terms = list(terms)
    return from_terms({m: c // k for m, c in terms}), from_terms({m: c % k for m, c in terms})


# ------------------------------------------------------------------------------------ whole expressions


def symbols_of(dim: Dim) -> tuple[Symbol, ...]:
    """The symbols of an expression, each once, in order of appearance."""
    found: dict[Symbol, None] = {}
    _collect_symbols(dim, found)
    return tuple(found)


def _collect_symbols(dim: Dim, found: dict[Symbol, None]) -> None:
    for monomial, _ in terms_of(dim):
        for atom in monomial:
            if isinstance(atom, Symbol):
                found[atom] = None
            elif isinstance(atom, FloorDiv):
                _collect_symbols(atom.numerator, found)
                _collect_symbols(atom.divisor, found)
            else:
                for arg in atom.args:
                    _collect_symbols(arg, found)


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """The value of a dimension where each symbol has the value bound to its name.

    Raises:
        UnboundSymbolError: a symbol has no binding.
        DimError: a value is not a multiple of what its symbol declares. (Values outside of a symbol's range
            are accepted, but simplification may have relied on the range.)
        ZeroDivisionError: a divisor evaluates to 0.
    """
    if isinstance(dim, int):
        return dim
    total = 0
    for monomial, coefficient in dim.terms:
        for atom in monomial:
            coefficient *= _evaluate_atom(atom, bindings)
        total += coefficient
    return total


def _evaluate_atom(atom: Atom, bindings: Mapping[str, int]) -> int:
    if isinstance(atom, FloorDiv):
        return evaluate(atom.numerator, bindings) // evaluate(atom.divisor, bindings)
    if isinstance(atom, Extremum):
        values = [evaluate(arg, bindings) for arg in atom.args]
        return max(values) if atom.largest else min(values)
    if atom.name not in bindings:
        bound = ", ".join(bindings) or "none"
        raise UnboundSymbolError(f"no value for symbol {atom.name} (bound: {bound})")
    value = bindings[atom.name]
    if atom.multiple_of == 1:
        return value
    if isinstance(value, int) and value % atom.multiple_of:
        raise DimError(f"{atom.name}={value} is not a multiple of {atom.multiple_of}")
    return value // atom.multiple_of


def substitute(dim: Dim, mapping: Mapping[str, Dim]) -> Dim:
    """The dimension with dimensions in the place of the symbols so named; others stay.

    Raises:
        DimError: what replaces a symbol is not known to be a multiple of what the symbol declares.
    """
    if isinstance(dim, int):
        return dim
    return _map_atoms(dim, lambda atom: _substitute_atom(atom, mapping))


def _substitute_atom(atom: Atom, mapping: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, FloorDiv):
        return floordiv(substitute(atom.numerator, mapping), substitute(atom.divisor, mapping))
    if isinstance(atom, Extremum):
        args = [substitute(arg, mapping) for arg in atom.args]
        return dim_max(*args) if atom.largest else dim_min(*args)
    if atom.name not in mapping:
        return from_atom(atom)
    replacement, divisor = mapping[atom.name], atom.multiple_of
    unit = exact_div(replacement, divisor)
    if unit is None:
        raise DimError(f"{replacement} cannot replace {atom.name}: not known to be a multiple of {divisor}")
    return unit


def _map_atoms(dim: Expr, image: Callable[[Atom], Dim]) -> Dim:
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = term * image(atom)
        total = total + term
    return total


def linear_in(dim: Dim) -> tuple[Symbol, int, int] | None:
    """(symbol, a, b) if `dim` is `a*symbol + b` with one symbol and a != 0; else None."""
    if isinstance(dim, int) or len(dim.variable_terms()) != 1:
        return None
    monomial, coefficient = dim.terms[0]
    if len(monomial) != 1 or not isinstance(monomial[0], Symbol) or coefficient % monomial[0].multiple_of:
        return None
    return monomial[0], coefficient // monomial[0].multiple_of, dim.constant()
