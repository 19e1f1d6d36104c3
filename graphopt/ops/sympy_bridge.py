"""Dim expressions from PyTorch's sympy expressions. The only place, with the torch front end, that meets sympy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import Dim, bounds, ceildiv, dim_max, dim_min, floordiv, mod, product


def dim_from_sympy(expression: Any, symbols: Mapping[str, Dim]) -> Dim:
    """Translate a sympy integer expression; `symbols` gives the dim of each sympy symbol by name.

    Raises:
        TypeInferenceError: a function that dims cannot express.
    """
    import sympy

    if expression.is_Integer or (expression.is_Float and float(expression).is_integer()):
        return int(expression)
    if expression.is_Symbol:
        try:
            return symbols[expression.name]
        except KeyError:
            raise TypeInferenceError(f"unknown symbol {expression.name} in a dim") from None
    name = type(expression).__name__
    if name in _ROUNDING:
        numerator, denominator = _fraction(expression.args[0])
        return _ROUNDING[name](dim_from_sympy(numerator, symbols), dim_from_sympy(denominator, symbols))
    if isinstance(expression, sympy.Add):
        return sum((dim_from_sympy(term, symbols) for term in expression.args), 0)
    if isinstance(expression, sympy.Mul):
        return _product(expression, symbols)
    args = [dim_from_sympy(a, symbols) for a in expression.args]
    if expression.is_Pow and isinstance(args[1], int) and args[1] >= 0:
        return product([args[0]] * args[1])
    function = _FUNCTIONS.get(name)
    if function is None:
        raise TypeInferenceError(f"the dim {expression} uses {name}, which is not supported")
    return function(*args)


def _product(expression: Any, symbols: Mapping[str, Dim]) -> Dim:
    """A product; one with a fractional coefficient is an integer all the same, so the division is exact."""
    numerator, denominator = expression.as_numer_denom()
    if denominator != 1:
        return floordiv(dim_from_sympy(numerator, symbols), dim_from_sympy(denominator, symbols))
    return product([dim_from_sympy(factor, symbols) for factor in expression.args])


def _fraction(expression: Any) -> tuple[Any, Any]:
    """The numerator and denominator of what is about to be rounded, PyTorch's own divisions included."""
    import sympy

    if type(expression).__name__ in ("IntTrueDiv", "FloatTrueDiv"):
        top, bottom = (_fraction(a) for a in expression.args)
        return top[0] * bottom[1], top[1] * bottom[0]
    if type(expression).__name__ == "ToFloat":
        return _fraction(expression.args[0])
    exact = {number: sympy.Rational(number) for number in expression.atoms(sympy.Float)}
    return sympy.fraction(sympy.together(expression.xreplace(exact)))


def _truncdiv(numerator: Dim, denominator: Dim) -> Dim:
    """Division rounded towards zero, of what is known to be no less than zero."""
    low = bounds(numerator)[0]
    if low is None or low < 0:
        raise TypeInferenceError(f"the dim {numerator}/{denominator} is rounded towards zero, and may be negative")
    return floordiv(numerator, denominator)


_ROUNDING: dict[str, Any] = {
    "floor": floordiv,
    "FloorToInt": floordiv,
    "ceiling": ceildiv,
    "CeilToInt": ceildiv,
    "TruncToInt": _truncdiv,
}

_FUNCTIONS: dict[str, Any] = {
    "FloorDiv": floordiv,
    "CleanDiv": floordiv,
    "CeilDiv": ceildiv,
    "Mod": mod,
    "PythonMod": mod,
    "Max": dim_max,
    "Min": dim_min,
    "Identity": lambda value: value,
    "ToFloat": lambda value: value,
}
