"""Division, remainder, extrema and products of dimensions, simplified while they are built."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import gcd

from graphopt.ir.dim_bounds import bounds, is_nonzero, is_positive
from graphopt.ir.dim_expr import (
    Dim,
    Expr,
    Extremum,
    FloorDiv,
    Monomial,
    Term,
    from_atom,
    from_terms,
    monomial_order,
    multiply_monomials,
    terms_of,
)


def floordiv(a: Dim, b: Dim) -> Dim:
    """`a // b`, rounded towards minus infinity.

    With a constant k > 0: multiples of k leave the division, `(k*q + r)//k = q + r//k`; common factors
    cancel; nested divisions merge, `(n//m + x)//k = (n + m*x)//(m*k)`; a negative leading coefficient turns
    over, `(-r)//k = -((r + k - 1)//k)`. With a symbolic divisor only what holds for all its values is done.

    Raises:
        ZeroDivisionError: b is the constant 0.

    >>> from graphopt.ir.dims import symbol
    >>> s = symbol("s")
    >>> print(floordiv(floordiv(s - 1, 2) + 2, 2))
    (s + 3)//4
    """
    if isinstance(b, int):
        if isinstance(a, int):
            return a // b
        if b == 0:
            raise ZeroDivisionError(f"dimension {a} divided by zero")
        return _divide_by_constant(a, b) if b > 0 else _divide_by_constant(-a, -b)
    return _divide_by_expr(a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """`a % b` with the sign of b: `a - b*(a//b)`."""
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    return a - b * floordiv(a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """The quotient rounded towards plus infinity: `-((-a)//b)`."""
    return -floordiv(-a, b)


def _divide_by_constant(a: Dim, k: int) -> Dim:
    if isinstance(a, int):
        return a // k
    if k == 1:
        return a
    whole, rest = _split_multiples(a, k)
    if isinstance(rest, int):  # in [0, k)
        return whole
    return whole + _divide_remainder(rest, k)


def _split_multiples(a: Expr, k: int) -> tuple[Dim, Dim]:
    """(q, r) with a == k*q + r, |coefficients of r| < k with the signs of a's, constant of r in [0, k)."""
    whole: list[Term] = []
    rest: list[Term] = []
    for monomial, c in a.terms:
        q = c // k if c >= 0 or not monomial else -(-c // k)
        if q:
            whole.append((monomial, q))
        if c != k * q:
            rest.append((monomial, c - k * q))
    return _from_sorted(whole), _from_sorted(rest)


def _from_sorted(terms: list[Term]) -> Dim:
    if not terms:
        return 0
    return Expr(tuple(terms)) if terms[0][0] else terms[0][1]


def _divide_remainder(rest: Expr, k: int) -> Dim:
    if rest.terms[0][1] < 0:
        return -_divide_by_constant(-rest + (k - 1), k)
    common = k
    for _, c in rest.variable_terms():
        common = gcd(common, c)
    if common > 1:
        reduced = _from_sorted([(m, c // common) for m, c in rest.terms if c // common])
        return _divide_by_constant(reduced, k // common)
    merged = _merge_nested(rest, k)
    if merged is not None:
        return merged
    low, high = bounds(rest)
    if low is not None and high is not None and low // k == high // k:
        return low // k
    return from_atom(FloorDiv(rest, k))


def _merge_nested(rest: Expr, k: int) -> Dim | None:
    for monomial, c in rest.variable_terms():
        if len(monomial) != 1 or c not in (1, -1) or not isinstance(monomial[0], FloorDiv):
            continue
        top, bottom = monomial[0].numerator, monomial[0].divisor
        if isinstance(bottom, int):
            others = rest - from_terms({monomial: c})
            rounded = top if c == 1 else bottom - 1 - top
            return floordiv(rounded + others * bottom, bottom * k)
        if len(rest.terms) == 1 and is_positive(bottom):
            return floordiv(top, bottom * k)
    return None


def _divide_by_expr(a: Dim, b: Expr) -> Dim:
    if b.terms[0][1] < 0:
        a, b = -a, -b
    if is_nonzero(b):
        quotient, remainder = divide_polynomials(a, b)
        if quotient != 0:
            return quotient + floordiv(remainder, b)
        if a == 0:
            return 0
    a, reduced = _cancel_common(a, b)
    if isinstance(reduced, int):
        return floordiv(a, reduced)
    b = reduced
    if is_positive(b):
        if (terms_of(a) or (((), 0),))[0][1] < 0:
            return -1 - floordiv(-a - 1, b)
        nested = _sole_division(a)
        if nested is not None and is_positive(nested.divisor):
            return floordiv(nested.numerator, nested.divisor * b)
    atom = from_atom(FloorDiv(a, b))
    low, high = bounds(atom)
    return low if low is not None and low == high and is_nonzero(b) else atom


def _sole_division(a: Dim) -> FloorDiv | None:
    if isinstance(a, Expr) and len(a.terms) == 1 and a.terms[0][1] == 1:
        monomial = a.terms[0][0]
        if len(monomial) == 1 and isinstance(monomial[0], FloorDiv):
            return monomial[0]
    return None


def _cancel_common(a: Dim, b: Expr) -> tuple[Dim, Dim]:
    """Drop the integer factor and the atoms known to be non-zero that divide every term of both."""
    terms = [*terms_of(a), *b.terms]
    content = 0
    for _, c in terms:
        content = gcd(content, c)
    shared = _common_monomial([m for m, _ in terms])
    shared = tuple(atom for atom in shared if is_nonzero(from_atom(atom)))
    if content == 1 and not shared:
        return a, b
    return _shrink(a, shared, content), _shrink(b, shared, content)


def _common_monomial(monomials: list[Monomial]) -> Monomial:
    shared = monomials[0]
    for monomial in monomials[1:]:
        kept = []
        remaining = list(monomial)
        for atom in shared:
            if atom in remaining:
                remaining.remove(atom)
                kept.append(atom)
        shared = tuple(kept)
    return shared


def _shrink(dim: Dim, monomial: Monomial, content: int) -> Dim:
    return from_terms({_monomial_quotient(m, monomial) or (): c // content for m, c in terms_of(dim)})


def _monomial_quotient(top: Monomial, bottom: Monomial) -> Monomial | None:
    """top / bottom, or None if bottom does not divide top."""
    remaining = list(top)
    for atom in bottom:
        if atom not in remaining:
            return None
        remaining.remove(atom)
    return tuple(remaining)


def divide_polynomials(a: Dim, b: Expr) -> tuple[Dim, Dim]:
    """(q, r) with a == q*b + r, by division of leading terms in graded lexicographic order.

    Coefficients are divided towards zero. If b divides a among integer polynomials, then r == 0.
    """
    lead, lead_coefficient = b.terms[0]
    quotient: dict[Monomial, int] = {}
    remainder: dict[Monomial, int] = {}
    work = dict(terms_of(a))
    while work:
        monomial = min(work, key=monomial_order)
        c = work[monomial]
        factor = _monomial_quotient(monomial, lead)
        q = abs(c) // abs(lead_coefficient) * (1 if (c > 0) == (lead_coefficient > 0) else -1)
        if factor is not None and q:
            quotient[factor] = quotient.get(factor, 0) + q
            for other, d in b.terms:
                product = multiply_monomials(factor, other)
                work[product] = work.get(product, 0) - q * d
        left = work.pop(monomial)
        if left:
            remainder[monomial] = left
        work = {m: c for m, c in work.items() if c}
    return from_terms(quotient), from_terms(remainder)


def exact_div(a: Dim, b: Dim) -> Dim | None:
    """The dimension q for which `q*b == a` identically, if one is found; else None.

    The identity holds for all values of the symbols, those that make b zero included. b == 0 gives None.

    >>> from graphopt.ir.dims import symbol
    >>> s = symbol("s")
    >>> exact_div(product([s, 16, 4]), product([s, 8]))
    8
    """
    if isinstance(b, int):
        if b == 0:
            return None
        if isinstance(a, int):
            return None if a % b else a // b
        if any(c % b for _, c in a.terms):
            return None
        return Expr(tuple([(m, c // b) for m, c in a.terms]))
    quotient, remainder = divide_polynomials(a, b)
    return quotient if remainder == 0 else None


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dimensions: the element count of a shape; 1 for none."""
    constant = 1
    result: Expr | None = None
    for dim in dims:
        if isinstance(dim, int):
            constant *= dim
        else:
            result = dim if result is None else result * dim  # type: ignore[assignment]
    return constant if result is None else result * constant


def dim_max(*dims: Dim) -> Dim:
    """The largest of one or more dimensions; operands that are never the largest are dropped."""
    return _extremum(True, dims)


def dim_min(*dims: Dim) -> Dim:
    """The smallest of one or more dimensions; operands that are never the smallest are dropped."""
    return _extremum(False, dims)


def _extremum(largest: bool, dims: tuple[Dim, ...]) -> Dim:
    if not dims:
        raise TypeError("the maximum or minimum of no dimensions is undefined")
    pick: Callable[..., int] = max if largest else min
    if all(isinstance(dim, int) for dim in dims):
        return pick(dims)
    args = _undominated(_flatten(dims, largest), largest)
    if len(args) == 1:
        return args[0]
    return _build_extremum(args, largest)


def _flatten(dims: Iterable[Dim], largest: bool) -> list[Dim]:
    flat: dict[Dim, None] = {}
    for dim in dims:
        atom = dim.terms[0][0][0] if isinstance(dim, Expr) and len(dim.variable_terms()) == 1 else None
        if isinstance(dim, Expr) and isinstance(atom, Extremum) and len(dim.terms[0][0]) == 1:
            # c*max(x, y) + d is max(c*x + d, c*y + d), a minimum for c < 0
            c, offset = dim.terms[0][1], dim.constant()
            if atom.largest == (largest == (c > 0)):
                flat.update(dict.fromkeys(_flatten([arg * c + offset for arg in atom.args], largest)))
                continue
        flat[dim] = None
    return list(flat)


def _undominated(args: list[Dim], largest: bool) -> list[Dim]:
    kept: list[Dim] = []
    for arg in sorted(args, key=_operand_order):
        if any(_dominates(other, arg, largest) for other in kept):
            continue
        kept = [other for other in kept if not _dominates(arg, other, largest)]
        kept.append(arg)
    return kept


def _dominates(a: Dim, b: Dim, largest: bool) -> bool:
    low = bounds(a - b if largest else b - a)[0]
    return low is not None and low >= 0


def _operand_order(dim: Dim) -> tuple[bool, list[tuple[tuple[int, list[str]], int]], int]:
    """Ints last; the order stays the same if a constant is added to all operands, or all are scaled up."""
    if isinstance(dim, int):
        return True, [], dim
    return False, [(monomial_order(m), c) for m, c in dim.variable_terms()], dim.constant()


def _build_extremum(args: list[Dim], largest: bool) -> Dim:
    """Normal form: shared terms, the first operand's constant and the common factor move outside."""
    shared = _shared_terms(args)
    if shared != 0:  # without them an operand may turn out to be an extremum itself
        return shared + _extremum(largest, tuple([arg - shared for arg in args]))
    if _is_negative(args):
        return -_build_extremum([-arg for arg in args], not largest)
    args.sort(key=_operand_order)
    first = args[0]
    offset = first.constant() if isinstance(first, Expr) else 0
    args = [arg - offset for arg in args]
    common = gcd(*[c for arg in args for _, c in terms_of(arg)])
    args = [_shrink(arg, (), common) for arg in args]
    return from_atom(Extremum(largest, tuple(args))) * common + offset


def _shared_terms(args: list[Dim]) -> Dim:
    terms = set(terms_of(args[0]))
    for arg in args[1:]:
        terms &= set(terms_of(arg))
    return from_terms({m: c for m, c in terms_of(args[0]) if m and (m, c) in terms})


def _is_negative(args: list[Dim]) -> bool:
    """The leading monomial of all operands occurs with negative coefficients only."""
    lead = min((m for arg in args for m, _ in terms_of(arg)), key=monomial_order)
    return all(c < 0 for arg in args for m, c in terms_of(arg) if m == lead)
