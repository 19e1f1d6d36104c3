"""Integer polynomials over symbolic sizes: the data structure behind a dimension.

An `Expr` is a sum of integer multiples of monomials, a monomial a product of atoms, and an atom a
`Symbol`, a floor division, a maximum or a minimum. Terms are kept sorted (graded lexicographic order,
constant last), so that equal polynomials are equal tuples.

Two choices make the normal form strong:

- There is no modulo atom: `a % b` is `a - b*(a//b)`, which is what `%` means, so that
  `(a//b)*b + a%b` is `a` by plain addition. The printer finds `%` again.
- A symbol that is a multiple of m stands in monomials for its unit `symbol / m`; the symbol itself is m
  units. So `s//4` and `2*(s//8)` are the same polynomial if s is a multiple of 8, with no extra rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

from graphopt.errors import GraphOptError


class DimError(GraphOptError, ValueError):
    """A dimension expression was built, evaluated or parsed wrongly."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A named integer unknown with a closed range and a known divisor, all part of its identity.

    Args:
        name: what the text form shows; any non-empty string.
        min, max: inclusive range (`max=None`: unbounded above).
        multiple_of: every value is a multiple of this positive integer.

    Raises:
        DimError: the name is empty, or no integer satisfies the range and the divisor.
    """

    name: str
    min: int = 0
    max: int | None = None
    multiple_of: int = 1
    key: str = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.name:
            raise DimError("a symbol needs a non-empty name")
        if self.multiple_of < 1:
            raise DimError(f"symbol {self.name}: multiple_of is {self.multiple_of}, must be at least 1")
        low, high = self.unit_range()
        if high is not None and high < low:
            raise DimError(f"symbol {self.name}: no multiple of {self.multiple_of} lies in [{self.min}, {self.max}]")
        object.__setattr__(self, "key", f"0{self.name!r}[{self.min},{self.max},{self.multiple_of}]")
        object.__setattr__(self, "_hash", hash(self.key))

    def unit_range(self) -> tuple[int, int | None]:
        """The inclusive range of `self / multiple_of`."""
        high = None if self.max is None else self.max // self.multiple_of
        return -(-self.min // self.multiple_of), high

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:  # hashes of strings differ between processes
        return Symbol, (self.name, self.min, self.max, self.multiple_of)


class _Composite:
    """What floor divisions and extrema share: identity by a cached, injective text key."""

    __slots__ = ("_hash", "key")
    key: str
    _hash: int

    def _seal(self, key: str) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "_hash", hash(key))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Composite) and self.key == other.key)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key})"


class FloorDiv(_Composite):
    """`numerator // divisor` that did not simplify. Built by `floordiv` alone."""

    __slots__ = ("divisor", "numerator")
    numerator: Dim
    divisor: Dim

    def __init__(self, numerator: Dim, divisor: Dim) -> None:
        object.__setattr__(self, "numerator", numerator)
        object.__setattr__(self, "divisor", divisor)
        self._seal(f"1({dim_key(numerator)}//{dim_key(divisor)})")

    def __reduce__(self) -> tuple[object, ...]:
        return FloorDiv, (self.numerator, self.divisor)


class Extremum(_Composite):
    """`max(args)` or `min(args)` that did not simplify. Built by `dim_max` and `dim_min` alone."""

    __slots__ = ("args", "largest")
    largest: bool
    args: tuple[Dim, ...]

    def __init__(self, largest: bool, args: tuple[Dim, ...]) -> None:
        object.__setattr__(self, "largest", largest)
        object.__setattr__(self, "args", args)
        self._seal(f"2{'max' if largest else 'min'}({','.join(map(dim_key, args))})")

    def __reduce__(self) -> tuple[object, ...]:
        return Extremum, (self.largest, self.args)


Atom = Symbol | FloorDiv | Extremum
Monomial = tuple[Atom, ...]
"""A product of atoms, sorted by key, repeated for powers; `()` is 1."""
Term = tuple[Monomial, int]


def _atom_key(atom: Atom) -> str:
    return atom.key


def monomial_order(monomial: Monomial) -> tuple[int, list[str]]:
    """Sort key of graded lexicographic order, largest monomial first."""
    return -len(monomial), [atom.key for atom in monomial]


def _term_order(term: Term) -> tuple[int, list[str]]:
    return monomial_order(term[0])


def multiply_monomials(left: Monomial, right: Monomial) -> Monomial:
    """The sorted product of two monomials."""
    if not left:
        return right
    if not right:
        return left
    return tuple(sorted(left + right, key=_atom_key))


class Expr:
    """An immutable integer polynomial that is not constant; see the module's text.

    Supports `+ - * // %` with ints and other expressions (Python's floor semantics). An operation with a
    constant result returns a plain int. `==` is structural, hence decidable and fast; ask `equal` whether
    two dimensions have the same value.

    >>> from graphopt.ir.dims import symbol
    >>> s = symbol("s0")
    >>> print(2 * s + 1, (6 * s + 3) // 3, s - s)
    2*s0 + 1 2*s0 + 1 0
    """

    __slots__ = ("_bounds", "_hash", "_text", "terms")
    terms: tuple[Term, ...]
    _hash: int | None
    _bounds: tuple[int | None, int | None] | None
    _text: str | None

    def __init__(self, terms: tuple[Term, ...]) -> None:
        set_slot = object.__setattr__
        set_slot(self, "terms", terms)
        set_slot(self, "_hash", None)
        set_slot(self, "_bounds", None)
        set_slot(self, "_text", None)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Expr is immutable")

    def __reduce__(self) -> tuple[object, ...]:
        return Expr, (self.terms,)

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash(self.terms))
        return self._hash  # type: ignore[return-value]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Expr) and self.terms == other.terms

    def constant(self) -> int:
        """The constant term."""
        monomial, coefficient = self.terms[-1]
        return 0 if monomial else coefficient

    def variable_terms(self) -> tuple[Term, ...]:
        """All terms but the constant one; never empty."""
        return self.terms if self.terms[-1][0] else self.terms[:-1]

    def __add__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            if other == 0:
                return self
            total = self.constant() + other
            variable = self.variable_terms()
            return Expr((*variable, ((), int(total))) if total else variable)
        if isinstance(other, Expr):
            sums = dict(self.terms)
            for monomial, coefficient in other.terms:
                sums[monomial] = sums.get(monomial, 0) + coefficient
            return from_terms(sums)
        return NotImplemented

    __radd__ = __add__

    def __neg__(self) -> Expr:
        return Expr(tuple([(monomial, -coefficient) for monomial, coefficient in self.terms]))

    def __pos__(self) -> Expr:
        return self

    def __sub__(self, other: Dim) -> Dim:
        if isinstance(other, (int, Expr)):
            return self + (-other)
        return NotImplemented

    def __rsub__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            return (-self) + other
        return NotImplemented

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, int):
            if other == 0:
                return 0
            if other == 1:
                return self
            return Expr(tuple([(monomial, coefficient * other) for monomial, coefficient in self.terms]))
        if isinstance(other, Expr):
            if len(self.terms) == 1 and len(other.terms) == 1:
                (left, a), (right, b) = self.terms[0], other.terms[0]
                return Expr(((multiply_monomials(left, right), a * b),))
            products: dict[Monomial, int] = {}
            for left, a in self.terms:
                for right, b in other.terms:
                    monomial = multiply_monomials(left, right)
                    products[monomial] = products.get(monomial, 0) + a * b
            return from_terms(products)
        return NotImplemented

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        from graphopt.ir.dim_ops import floordiv

        return floordiv(self, other) if isinstance(other, (int, Expr)) else NotImplemented

    def __rfloordiv__(self, other: Dim) -> Dim:
        from graphopt.ir.dim_ops import floordiv

        return floordiv(other, self) if isinstance(other, int) else NotImplemented

    def __mod__(self, other: Dim) -> Dim:
        from graphopt.ir.dim_ops import mod

        return mod(self, other) if isinstance(other, (int, Expr)) else NotImplemented

    def __rmod__(self, other: Dim) -> Dim:
        from graphopt.ir.dim_ops import mod

        return mod(other, self) if isinstance(other, int) else NotImplemented

    def __str__(self) -> str:
        if self._text is None:
            from graphopt.ir.dim_text import format_expr

            object.__setattr__(self, "_text", format_expr(self))
        return self._text  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Expr({self})"


Dim = int | Expr
"""A dimension: an int, or an expression over symbols."""


def from_terms(sums: dict[Monomial, int]) -> Dim:
    """The polynomial with these coefficients, as an int if it is constant."""
    terms = [term for term in sums.items() if term[1]]
    if not terms:
        return 0
    if len(terms) == 1:
        monomial, coefficient = terms[0]
        return Expr((terms[0],)) if monomial else coefficient
    terms.sort(key=_term_order)
    return Expr(tuple(terms))


def from_atom(atom: Atom) -> Expr:
    """The polynomial that is one atom (for a symbol: its unit, see the module's text)."""
    return Expr((((atom,), 1),))


def terms_of(dim: Dim) -> tuple[Term, ...]:
    """The terms of an expression or int; none for 0."""
    if isinstance(dim, Expr):
        return dim.terms
    return (((), dim),) if dim else ()


def dim_key(dim: Dim) -> str:
    """An injective text of a dimension, with the identity of its symbols; orders operands."""
    if isinstance(dim, int):
        return str(dim)
    return "+".join(f"{c}*" + ".".join(atom.key for atom in monomial) for monomial, c in dim.terms)


def symbol(name: str, min: int = 0, max: int | None = None, multiple_of: int = 1) -> Expr:
    """The expression that consists of one new `Symbol`.

    >>> print(symbol("batch", min=1) * 4)
    4*batch
    """
    return from_symbol(Symbol(name, min, max, multiple_of))


def from_symbol(sym: Symbol) -> Expr:
    """The expression whose value is the symbol's."""
    return Expr((((sym,), sym.multiple_of),))


def split_units(monomial: Monomial, coefficient: int) -> tuple[int, list[tuple[Atom, int]]]:
    """(scale, [(atom, divisor)]): `coefficient*monomial` as scale times the product of `atom // divisor`.

    The units that symbols with a divisor stand for become the symbols again, whole where the coefficient
    allows, else divided exactly; all other divisors are 1. The coefficient must be positive.
    """
    factors = []
    for atom in monomial:
        divisor = 1
        if isinstance(atom, Symbol) and atom.multiple_of > 1:
            part = gcd(coefficient, atom.multiple_of)
            coefficient //= part
            divisor = atom.multiple_of // part
        factors.append((atom, divisor))
    return coefficient, factors


def replace_atoms(dim: Dim, replacements: dict[Atom, Dim]) -> Dim:
    """Put polynomials for top-level atoms (not for those inside other atoms)."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    kept: dict[Monomial, int] = {}
    for monomial, coefficient in dim.terms:
        if not any(atom in replacements for atom in monomial):
            kept[monomial] = coefficient
            continue
        product: Dim = coefficient
        for atom in monomial:
            factor = replacements.get(atom)
            product = product * (from_atom(atom) if factor is None else factor)
        total = total + product
    return from_terms(kept) + total
