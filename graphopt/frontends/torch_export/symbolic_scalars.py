"""Symbolic floats and booleans, computed from sizes, as 0-dim tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphopt.errors import CaptureError, TypeInferenceError
from graphopt.frontends.builder import Builder
from graphopt.frontends.torch_export.symbols import SymbolTable
from graphopt.ir import DType, TensorType, Value

_FLOAT = TensorType(DType.F64, ())
_BOOL = TensorType(DType.BOOL, ())

_COMPARISONS = {
    "Equality": "aten.eq.Tensor",
    "Unequality": "aten.ne.Tensor",
    "StrictLessThan": "aten.lt.Tensor",
    "LessThan": "aten.le.Tensor",
    "StrictGreaterThan": "aten.gt.Tensor",
    "GreaterThan": "aten.ge.Tensor",
}
_UNARY = {
    "OpaqueUnaryFn_sqrt": "aten.sqrt",
    "OpaqueUnaryFn_exp": "aten.exp",
    "OpaqueUnaryFn_log": "aten.log",
    "OpaqueUnaryFn_log2": "aten.log2",
    "OpaqueUnaryFn_sin": "aten.sin",
    "OpaqueUnaryFn_cos": "aten.cos",
    "OpaqueUnaryFn_tanh": "aten.tanh",
    "Abs": "aten.abs",
}
_BINARY = {
    "FloatTrueDiv": "aten.div.Tensor",
    "IntTrueDiv": "aten.div.Tensor",
    "FloatPow": "aten.pow.Tensor_Tensor",
    "PowByNatural": "aten.pow.Tensor_Tensor",
    "Pow": "aten.pow.Tensor_Tensor",
    "Max": "aten.maximum",
    "Min": "aten.minimum",
}


def is_symbolic(value: Any) -> bool:
    """True for a number known only at run time."""
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def as_value(
    value: torch.SymFloat | torch.SymBool | torch.SymInt,
    builder: Builder,
    symbols: SymbolTable,
    known: Mapping[Any, Value],
) -> Any:
    """Return a symbolic integer as a dim, a symbolic float or boolean as a 0-dim tensor.

    known: the tensors that some symbolic numbers were read from.
    """
    if isinstance(value, torch.SymInt):
        return symbols.dim(value)
    return _Computation(builder, symbols, known).tensor(value.node.expr)


class _Computation:
    def __init__(self, builder: Builder, symbols: SymbolTable, known: Mapping[Any, Value]) -> None:
        self.builder = builder
        self.symbols = symbols
        self.known = known

    def tensor(self, expression: Any) -> Value:
        """Compute a sympy expression with tensors, in double precision as Python would."""
        found = self.known.get(expression)
        if found is not None:
            return found
        if getattr(expression, "is_integer", False):
            try:
                dim = self.symbols.from_sympy(expression)
                return self.builder.one("aten.scalar_tensor", dim, dtype=DType.F64, type=_FLOAT)
            except TypeInferenceError:
                pass
        if getattr(expression, "is_number", False):
            return self.builder.scalar(float(expression), torch.float64)
        return self._function(type(expression).__name__, expression.args)

    def _function(self, name: str, args: tuple[Any, ...]) -> Value:
        if name in _COMPARISONS:
            return self.builder.one(_COMPARISONS[name], *map(self.tensor, args), type=_BOOL)
        if name in ("And", "Or"):
            return self._chain("aten.logical_and" if name == "And" else "aten.logical_or", args, _BOOL)
        if name == "Not":
            return self.builder.one("aten.logical_not", self.tensor(args[0]), type=_BOOL)
        if name in ("Add", "Mul"):
            return self._chain("aten.add.Tensor" if name == "Add" else "aten.mul.Tensor", args, _FLOAT)
        if name in _BINARY:
            return self._chain(_BINARY[name], args, _FLOAT)
        if name in _UNARY:
            return self.builder.one(_UNARY[name], self.tensor(args[0]), type=_FLOAT)
        if name in ("ToFloat", "Identity"):
            return self.tensor(args[0])
        raise CaptureError(f"a number computed from sizes uses {name}, which is not supported; compute it with tensors")

    def _chain(self, op: str, args: tuple[Any, ...], type_: TensorType) -> Value:
        result = self.tensor(args[0])
        for argument in args[1:]:
            result = self.builder.one(op, result, self.tensor(argument), type=type_)
        return result
