"""Dims from sympy expressions, against sympy's own evaluation."""

from __future__ import annotations

import pytest
import sympy
from torch.utils._sympy.functions import CeilToInt, FloorDiv, IntTrueDiv, Max, PythonMod

from graphopt.errors import TypeInferenceError
from graphopt.ir.dims import evaluate, symbol
from graphopt.ops.sympy_bridge import dim_from_sympy

S, T = sympy.Symbol("s", integer=True, positive=True), sympy.Symbol("t", integer=True, positive=True)
EXPRESSIONS = [
    S * T * 4 + 3,
    S**3 - T,
    FloorDiv(S + 3, 2),
    sympy.floor(S / 2 + sympy.Rational(1, 2)),
    sympy.ceiling(S / 2),
    sympy.ceiling((S + T) / 3),
    CeilToInt(IntTrueDiv(S, 4)),
    PythonMod(S, 3),
    Max(S, T),
    S * (S + 1) / 2,
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_the_dim_has_the_value_of_the_expression(expression: sympy.Expr) -> None:
    dim = dim_from_sympy(expression, {"s": symbol("s", 1), "t": symbol("t", 1)})
    for s, t in ((1, 1), (2, 3), (5, 2), (8, 9), (11, 4)):
        assert evaluate(dim, {"s": s, "t": t}) == int(expression.subs({S: s, T: t}))


def test_a_function_without_a_dim_is_refused() -> None:
    with pytest.raises(TypeInferenceError, match="sin"):
        dim_from_sympy(sympy.sin(S), {"s": symbol("s", 1)})
