"""Bounds of dimension expressions by interval arithmetic.

Plain intervals treat every term as independent, which loses `s - s//2 >= 0`. Three refinements recover
what shape arithmetic needs, each sound by itself, their results intersected:

- a maximum or minimum is one of its operands: bound the expression for each in turn;
- `n//k` is `(n - r)/k` for a slack `r` in [0, k-1], which makes the expression a polynomial in symbols and
  slacks, so that equal terms cancel;
- a variable `x` in [a, b] is `a + x'` (or `b - x'`) with `x' >= 0`: where all coefficients of the shifted
  polynomial have one sign, its constant is a bound (so `s*t - s >= 0` for `s, t >= 1`).
"""

from __future__ import annotations

from math import gcd

from graphopt.ir.dim_expr import (
    Atom,
    Dim,
    Expr,
    Extremum,
    FloorDiv,
    Monomial,
    Symbol,
    from_atom,
    from_symbol,
    from_terms,
    replace_atoms,
)

Number = float
"""An int, or plus or minus infinity (ints of any size compare exactly with infinities)."""
Interval = tuple[Number, Number]

INFINITY = float("inf")
EVERYTHING: Interval = (-INFINITY, INFINITY)
# Refinement is best effort: beyond these sizes the plain interval, which is always sound, is the answer.
MAX_TERMS = 48
MAX_SPLITS = 6


def bounds(dim: Dim) -> tuple[int | None, int | None]:
    """A closed interval that contains every value of `dim`; None where it is unbounded.

    Each symbol ranges over its declared range; a divisor that may be zero is taken as non-zero, since the
    expression has no value otherwise. The interval is sound, not always tight.

    >>> from graphopt.ir.dims import symbol
    >>> bounds(symbol("s", min=1, max=10) // 4)
    (0, 2)
    """
    if isinstance(dim, int):
        return dim, dim
    if dim._bounds is None:
        low, high = _expr_interval(dim, MAX_SPLITS)
        pair = (None if low == -INFINITY else int(low), None if high == INFINITY else int(high))
        object.__setattr__(dim, "_bounds", pair)
    return dim._bounds  # type: ignore[return-value]


def interval(dim: Dim) -> Interval:
    """`bounds` with infinities for None."""
    low, high = bounds(dim)
    return -INFINITY if low is None else low, INFINITY if high is None else high


def is_positive(dim: Dim) -> bool:
    """Known to be at least 1."""
    low = bounds(dim)[0]
    return low is not None and low > 0


def is_nonzero(dim: Dim) -> bool:
    """Known to differ from 0 by its sign."""
    low, high = bounds(dim)
    return (low is not None and low > 0) or (high is not None and high < 0)


def _expr_interval(expr: Dim, splits: int) -> Interval:
    if isinstance(expr, int):
        return expr, expr
    plain = _plain_interval(expr)
    if _is_exact(expr) or len(expr.terms) > MAX_TERMS:
        return plain
    chosen = next((a for m, _ in expr.terms for a in m if isinstance(a, Extremum)), None)
    if chosen is None:
        refined = _relaxed_interval(expr)
    else:
        refined = _split_interval(expr, chosen, splits - 1) if splits else EVERYTHING
    return _round_inwards(_intersect(plain, refined), expr)


def _round_inwards(ends: Interval, expr: Expr) -> Interval:
    """Move the ends to values that the expression can take, given the common factor of its coefficients.

    This also makes bounds commute with scaling and shifting, on which the normal form of extrema relies.
    """
    step = gcd(*[c for _, c in expr.variable_terms()])
    offset = expr.constant() % step
    low, high = ends
    return (
        low if low == -INFINITY else -(-(low - offset) // step) * step + offset,
        high if high == INFINITY else (high - offset) // step * step + offset,
    )


def _is_exact(expr: Expr) -> bool:
    """Plain intervals are exact for sums of distinct plain symbols, and for a lone monomial of them."""
    if len(expr.variable_terms()) == 1:
        monomial = expr.terms[0][0]
        return len(monomial) == 1 or all(isinstance(atom, Symbol) for atom in monomial)
    return all(len(m) <= 1 and all(isinstance(atom, Symbol) for atom in m) for m, _ in expr.terms)


def _intersect(left: Interval, right: Interval) -> Interval:
    return max(left[0], right[0]), min(left[1], right[1])


def _times(a: Number, b: Number) -> Number:
    if a == 0 or b == 0:
        return 0  # also times infinity: the infinite end is never reached
    if isinstance(a, float) or isinstance(b, float):  # no arithmetic: an int may be too large for a float
        return INFINITY if (a > 0) == (b > 0) else -INFINITY
    return a * b


def _plus(a: Number, b: Number) -> Number:
    if isinstance(a, float):
        return a
    return b if isinstance(b, float) else a + b


def _multiply(left: Interval, right: Interval) -> Interval:
    products = [_times(a, b) for a in left for b in right]
    return min(products), max(products)


def _power(base: Interval, exponent: int) -> Interval:
    result: Interval = (1, 1)
    for _ in range(exponent):
        result = _multiply(result, base)
    if exponent % 2 == 0:
        result = max(result[0], 0), result[1]
    return result


def _plain_interval(expr: Expr) -> Interval:
    low: Number = 0
    high: Number = 0
    for monomial, coefficient in expr.terms:
        product: Interval = (coefficient, coefficient)
        position = 0
        while position < len(monomial):
            atom = monomial[position]
            count = monomial.count(atom)
            product = _multiply(product, _power(atom_interval(atom), count))
            position += count
        low, high = _plus(low, product[0]), _plus(high, product[1])
    return low, high


def atom_interval(atom: Atom) -> Interval:
    """The interval of an atom; for a symbol, that of its unit."""
    if isinstance(atom, Symbol):
        low, high = atom.unit_range()
        return low, INFINITY if high is None else high
    if isinstance(atom, FloorDiv):
        return _quotient(interval(atom.numerator), interval(atom.divisor))
    ends = [interval(arg) for arg in atom.args]
    pick = max if atom.largest else min
    return pick(low for low, _ in ends), pick(high for _, high in ends)


def _quotient(top: Interval, bottom: Interval) -> Interval:
    if bottom[0] < 0:
        reach = max(abs(top[0]), abs(top[1]))  # |a//b| <= |a| for every integer b but 0
        return -reach, reach
    least, most = max(bottom[0], 1), max(bottom[1], 1)
    low = _floor(top[0], most if top[0] >= 0 else least)
    high = _floor(top[1], least if top[1] >= 0 else most)
    return low, high


def _floor(top: Number, bottom: Number) -> Number:
    if abs(top) == INFINITY:
        return (0 if top > 0 else -1) if bottom == INFINITY else top
    if bottom == INFINITY:
        return 0 if top >= 0 else -1
    return top // bottom


def _split_interval(expr: Expr, chosen: Extremum, splits: int) -> Interval:
    """Bound `expr` with each operand in the place of an extremum.

    If the extremum occurs once, times a constant c, then `expr` itself is the maximum (or, for c < 0, the
    minimum) of the cases; otherwise it is merely one of them.
    """
    cases = [_expr_interval(replace_atoms(expr, {chosen: arg}), splits) for arg in chosen.args]
    lows, highs = [low for low, _ in cases], [high for _, high in cases]
    places = [(m, c) for m, c in expr.terms if chosen in m]
    if len(places) == 1 and len(places[0][0]) == 1:
        pick = max if chosen.largest == (places[0][1] > 0) else min
        return pick(lows), pick(highs)
    return min(lows), max(highs)


def _relaxed_interval(expr: Expr) -> Interval:
    relaxed, scale = _relax(expr)
    if isinstance(relaxed, int):
        return -(-relaxed // scale), relaxed // scale
    low, high = _plain_interval(relaxed)
    if len(relaxed.terms) <= MAX_TERMS and any(len(m) > 1 for m, _ in relaxed.terms):
        for shifted in (_shift(relaxed, 0), _shift(relaxed, 1)):
            ends = (shifted, shifted) if isinstance(shifted, int) else _plain_interval(shifted)
            low, high = _intersect((low, high), ends)
    return (
        low if low == -INFINITY else -(-low // scale),
        high if high == INFINITY else high // scale,
    )


def _relax(expr: Expr) -> tuple[Dim, int]:
    """A polynomial without floor divisions by constants, and the factor by which it was scaled up."""
    current: Dim = expr
    scale = 1
    for number in range(MAX_SPLITS):
        if isinstance(current, int) or len(current.terms) > MAX_TERMS:
            break
        atom = next((a for m, _ in current.terms for a in m if _is_relaxable(a, current)), None)
        if atom is None:
            break
        current, factor = _relax_atom(current, atom, number)
        scale *= factor
    return current, scale


def _is_relaxable(atom: Atom, expr: Expr) -> bool:
    if not isinstance(atom, FloorDiv):
        return False
    return isinstance(atom.divisor, int) or remainder_multiple(expr, atom) is not None


def _relax_atom(expr: Expr, atom: Atom, number: int) -> tuple[Dim, int]:
    assert isinstance(atom, FloorDiv)
    multiple = remainder_multiple(expr, atom)
    high = bounds(atom.divisor)[1]
    slack = from_symbol(Symbol(f"slack {number}", 0, None if high is None else high - 1))
    if multiple is not None:
        rest = from_terms({m: c for m, c in expr.terms if atom not in m})
        return rest + multiple * (atom.numerator - slack), 1
    assert isinstance(atom.divisor, int)
    return _scaled_substitute(expr, atom, atom.numerator - slack, atom.divisor)


def _scaled_substitute(expr: Expr, atom: Atom, top: Dim, bottom: int) -> tuple[Dim, int]:
    """`expr` with `top / bottom` for `atom`, times the power of `bottom` that clears denominators."""
    most = max(monomial.count(atom) for monomial, _ in expr.terms)
    total: Dim = 0
    for monomial, coefficient in expr.terms:
        count = monomial.count(atom)
        others = tuple(a for a in monomial if a != atom)
        product = from_terms({others: coefficient * bottom ** (most - count)})
        for _ in range(count):
            product = product * top
        total = total + product
    return total, bottom**most


def remainder_multiple(expr: Expr, atom: FloorDiv) -> Dim | None:
    """q if the terms with `atom = n//d` add up to `q*d*(n//d)`, d positive; then they are `q*(n - n%d)`."""
    from graphopt.ir.dim_ops import exact_div  # dim_ops builds on bounds

    if not is_positive(atom.divisor):
        return None
    cofactor: dict[Monomial, int] = {}
    for monomial, coefficient in expr.terms:
        count = monomial.count(atom)
        if count > 1:
            return None
        if count:
            cofactor[tuple(a for a in monomial if a != atom)] = coefficient
    return exact_div(from_terms(cofactor), atom.divisor)


def _shift(expr: Expr, end: int) -> Dim:
    """Measure each bounded atom from its low (end 0) or high (end 1) end."""
    replacements: dict[Atom, Dim] = {}
    for monomial, _ in expr.terms:
        for atom in monomial:
            ends = atom_interval(atom)
            if atom in replacements or abs(ends[end]) == INFINITY:
                continue
            width = None if INFINITY in (ends[1], -ends[0]) else int(ends[1] - ends[0])
            distance = from_atom(Symbol(f"distance {atom.key}", 0, width))
            replacements[atom] = distance + int(ends[0]) if end == 0 else int(ends[1]) - distance
    return replace_atoms(expr, replacements)
