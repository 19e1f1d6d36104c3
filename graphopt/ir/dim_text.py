"""The text form of dimensions: `2*s0 + 1`, `(s0 + 3)//2`, `s0%4`, `max(s0, 1)`.

Grammar, with Python's precedence and rounding:

    dim    := term (("+" | "-") term)*
    term   := factor (("*" | "//" | "%") factor)*
    factor := "-" factor | integer | name | ("max" | "min") "(" dim ("," dim)* ")" | "(" dim ")"
    name   := identifier | JSON string (for names that are no identifiers)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from graphopt.ir.dim_bounds import remainder_multiple
from graphopt.ir.dim_expr import (
    Atom,
    Dim,
    DimError,
    Expr,
    Extremum,
    FloorDiv,
    Monomial,
    Symbol,
    from_symbol,
    split_units,
)
from graphopt.ir.dim_ops import dim_max, dim_min, floordiv, mod

_TOKEN = re.compile(r'\s*(?:(?P<int>\d+)|(?P<name>[^\W\d][\w.]*|"(?:[^"\\]|\\.)*")|(?P<op>//|[-+*%(),]))')
_IDENTIFIER = re.compile(r"[^\W\d][\w.]*")


class DimParseError(DimError):
    """Text that is no dimension. `text` and `position` (0-based offset) say where it went wrong."""

    def __init__(self, problem: str, text: str, position: int) -> None:
        self.text = text
        self.position = position
        super().__init__(f"{problem} at column {position + 1}\n    {text}\n    {' ' * position}^")


# ---------------------------------------------------------------------------------------- printing


def format_expr(expr: Expr) -> str:
    """The canonical text of an expression; `parse_dim` reads it back."""
    pieces = _pieces(expr)
    lead = next((piece for piece in pieces if piece[0] > 0), pieces[0])
    pieces.remove(lead)
    sign, text = lead
    if sign < 0:  # the sign binds tighter than // and %
        text = f"-({text})" if "//" in text or "%" in text else f"-{text}"
    for sign, piece in pieces:
        text += (" - " if sign < 0 else " + ") + piece
    return text


def format_symbol(sym: Symbol) -> str:
    """The symbol's name, quoted as a JSON string if it is no identifier."""
    return sym.name if _IDENTIFIER.fullmatch(sym.name) else json.dumps(sym.name)


def _pieces(expr: Expr) -> list[tuple[int, str]]:
    """The summands as (number with the sign, text without it)."""
    rest: Dim = expr
    pieces = []
    for monomial, _ in expr.terms:
        for atom in monomial:
            found = _find_remainder(rest, atom)
            if found is not None:
                rest, coefficient, text = found
                pieces.append((coefficient, _scaled(abs(coefficient), [text])))
    if isinstance(rest, Expr):
        plain = [(c, _format_term(m, c)) for m, c in rest.terms]
        return [*plain[:-1], *pieces, plain[-1]] if rest.constant() and pieces else [*plain, *pieces]
    return [*pieces, (rest, str(abs(rest)))] if rest else pieces


def _find_remainder(rest: Dim, atom: Atom) -> tuple[Dim, int, str] | None:
    """(what is left, c, text of a%b) if `c*(a - b*(a//b))` is a part of `rest`, up to the constant."""
    if not isinstance(atom, FloorDiv) or not isinstance(rest, Expr):
        return None
    if not any(atom in monomial for monomial, _ in rest.terms):
        return None
    factor = remainder_multiple(rest, atom)
    if not isinstance(factor, int) or not isinstance(atom.numerator, Expr):
        return None
    present = dict(rest.terms)
    if any(present.get(m) != -factor * c for m, c in atom.numerator.variable_terms()):
        return None
    left = rest + factor * mod(atom.numerator, atom.divisor)
    return left, -factor, f"{_operand(atom.numerator)}%{_operand(atom.divisor)}"


def _format_term(monomial: Monomial, coefficient: int) -> str:
    scale, factors = split_units(monomial, abs(coefficient))
    return _scaled(scale, [_format_atom(a) if d == 1 else f"{_format_atom(a)}//{d}" for a, d in factors])


def _scaled(scale: int, factors: list[str]) -> str:
    if scale == 1 and len(factors) == 1:
        return factors[0]
    shown = [str(scale)] if scale != 1 or not factors else []
    return "*".join(shown + [f"({f})" if "//" in f or "%" in f else f for f in factors])


def _format_atom(atom: Atom) -> str:
    if isinstance(atom, Symbol):
        return format_symbol(atom)
    if isinstance(atom, FloorDiv):
        return f"{_operand(atom.numerator)}//{_operand(atom.divisor)}"
    return f"{'max' if atom.largest else 'min'}({', '.join(map(str, atom.args))})"


def _operand(dim: Dim) -> str:
    """Text that can stand on either side of `//` and `%`."""
    if isinstance(dim, Expr) and len(dim.terms) == 1 and len(dim.terms[0][0]) == 1:
        (atom,), coefficient = dim.terms[0]
        if isinstance(atom, Symbol) and coefficient == atom.multiple_of:
            return str(dim)
        if isinstance(atom, Extremum) and coefficient == 1:
            return str(dim)
    return str(dim) if isinstance(dim, int) and dim >= 0 else f"({dim})"


# ----------------------------------------------------------------------------------------- parsing


def parse_dim(text: str, symbols: Mapping[str, Symbol]) -> Dim:
    """Read a dimension; `symbols` says what each name means.

    Raises:
        DimParseError: bad syntax, an unknown name, or division by zero; the message points at the column.

    >>> from graphopt.ir.dims import Symbol
    >>> parse_dim("(s0 + 3)//2 + 1", {"s0": Symbol("s0")})
    Expr((s0 + 1)//2 + 2)
    """
    dim, end = parse_dim_prefix(text, symbols)
    if text[end:].strip():
        position = len(text) - len(text[end:].lstrip())
        raise DimParseError(f"unexpected {text[position]!r}", text, position)
    return dim


def parse_dim_prefix(text: str, symbols: Mapping[str, Symbol], position: int = 0) -> tuple[Dim, int]:
    """Read the longest dimension that starts at `position`; also returns the offset of its end."""
    parser = _Parser(text, symbols, position)
    return parser.sum(), parser.end


class _Parser:
    """Recursive descent over the grammar above, one token of look-ahead."""

    def __init__(self, text: str, symbols: Mapping[str, Symbol], position: int) -> None:
        self.text = text
        self.symbols = symbols
        self.end = position  # of the last token consumed
        self._peek(position)

    def _peek(self, position: int) -> None:
        match = _TOKEN.match(self.text, position)
        self.kind = match.lastgroup if match else None
        self.token = match.group(self.kind) if match and self.kind else ""
        self.start = match.start(self.kind) if match and self.kind else self._skip_space(position)
        self.next = match.end() if match else position

    def _skip_space(self, position: int) -> int:
        while position < len(self.text) and self.text[position].isspace():
            position += 1
        return position

    def _advance(self) -> str:
        token = self.token
        self.end = self.next
        self._peek(self.next)
        return token

    def _error(self, problem: str) -> DimParseError:
        return DimParseError(problem, self.text, self.start)

    def _expect(self, token: str) -> None:
        if self.token != token:
            raise self._error(f"expected {token!r}")
        self._advance()

    def sum(self) -> Dim:
        total = self.term()
        while self.token in ("+", "-"):
            sign = -1 if self._advance() == "-" else 1
            total = total + self.term() * sign
        return total

    def term(self) -> Dim:
        result = self.factor()
        while self.token in ("*", "//", "%"):
            operator = self._advance()
            start = self.start
            right = self.factor()
            if operator == "*":
                result = result * right
                continue
            if right == 0:
                raise DimParseError("division by zero", self.text, start)
            result = floordiv(result, right) if operator == "//" else mod(result, right)
        return result

    def factor(self) -> Dim:
        if self.token == "-":
            self._advance()
            return -self.factor()
        if self.token == "(":
            self._advance()
            inner = self.sum()
            self._expect(")")
            return inner
        if self.kind == "int":
            return int(self._advance())
        if self.kind == "name":
            return self.name()
        found = f"found {self.text[self.start]!r}" if self.start < len(self.text) else "the text ends"
        raise self._error(f"expected a number, a name or '(', but {found}")

    def name(self) -> Dim:
        start = self.start
        token = self._advance()
        if token in ("max", "min") and self.token == "(":
            return self.extremum(token)
        name = json.loads(token) if token.startswith('"') else token
        if name not in self.symbols:
            known = ", ".join(self.symbols) or "none"
            raise DimParseError(f"unknown symbol {name!r} (known: {known})", self.text, start)
        return from_symbol(self.symbols[name])

    def extremum(self, function: str) -> Dim:
        self._expect("(")
        args = [self.sum()]
        while self.token == ",":
            self._advance()
            args.append(self.sum())
        self._expect(")")
        return dim_max(*args) if function == "max" else dim_min(*args)
