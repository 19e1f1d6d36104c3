"""Dim expressions from PyTorch's sympy expressions. The only place, with the torch front end, that meets sympy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import Dim, dim_max, dim_min, floordiv, mod


def dim_from_sympy(expression: Any, symbols: Mapping[str, Dim]) -> Dim:
    """Translate a sympy integer expression; `symbols` gives the dim of each sympy symbol by name.

    Raises:
        TypeInferenceError: a function that dims cannot express.
    """
    import sympy

    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        try:
            return symbols[expression.name]
        except KeyError:
            raise TypeInferenceError(f"unknown symbol {expression.name} in a dim") from None
    if isinstance(expression, sympy.Mul | sympy.Add):
        return _fold(expression, symbols)
    args = [dim_from_sympy(a, symbols) for a in expression.args]
    if expression.is_Pow and isinstance(args[1], int) and args[1] >= 0:
        result: Dim = 1
        for _ in range(args[1]):
            result = result * args[0]
        return result
    function = _FUNCTIONS.get(type(expression).__name__)
    if function is None:
        raise TypeInferenceError(f"the dim {expression} uses {type(expression).__name__}, which is not supported")
    return function(*args)


def _fold(expression: Any, symbols: Mapping[str, Dim]) -> Dim:
    import sympy

    if isinstance(expression, sympy.Add):
        total: Dim = 0
        for term in expression.args:
            total = total + dim_from_sympy(term, symbols)
        return total
    numerator, denominator = expression.as_numer_denom()
    if denominator != 1:
        return floordiv(dim_from_sympy(numerator, symbols), dim_from_sympy(denominator, symbols))
    product: Dim = 1
    for factor in expression.args:
        product = product * dim_from_sympy(factor, symbols)
    return product


def _ceil_to_int(value: Dim) -> Dim:
    return value


_FUNCTIONS: dict[str, Any] = {
    "FloorDiv": floordiv,
    "CleanDiv": floordiv,
    "CeilDiv": lambda a, b: floordiv(a + b - 1, b),
    "Mod": mod,
    "PythonMod": mod,
    "Max": dim_max,
    "Min": dim_min,
    "CeilToInt": _ceil_to_int,
    "FloorToInt": _ceil_to_int,
    "Identity": _ceil_to_int,
    "floor": _ceil_to_int,
    "ceiling": _ceil_to_int,
}
