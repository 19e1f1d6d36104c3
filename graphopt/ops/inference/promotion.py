"""PyTorch's type promotion: tensors with dims outrank those without, which outrank Python numbers, within a category.

The categories are bool < integer < float < complex; an operand of lower rank changes the result's dtype only if it
is of a higher category.
"""

from __future__ import annotations

from typing import Any

import torch

from graphopt.ir import DType, Expr, TensorType, from_torch

_promoted: dict[tuple[DType, DType], DType | None] = {}


def promote(a: DType, b: DType) -> DType | None:
    """The common dtype of two tensors of the same rank of operands, or None if PyTorch has none."""
    if a is b:
        return a
    key = (a, b)
    if key not in _promoted:
        try:
            _promoted[key] = from_torch(torch.promote_types(a.torch, b.torch))
        except (RuntimeError, TypeError):
            _promoted[key] = None
    return _promoted[key]


def default_float() -> DType:
    """PyTorch's default floating-point dtype."""
    return from_torch(torch.get_default_dtype())


def number_dtype(number: Any) -> DType:
    """The dtype that a Python number (or dim expression) counts as."""
    if isinstance(number, bool):
        return DType.BOOL
    if isinstance(number, int | Expr):
        return DType.I64
    if isinstance(number, float):
        return default_float()
    return DType.C128 if default_float() is DType.F64 else DType.C64


def category(dtype: DType) -> int:
    """0 for bool, 1 for integers, 2 for floats, 3 for complex."""
    if dtype is DType.BOOL:
        return 0
    if dtype.is_floating:
        return 2
    return 3 if dtype.is_complex else 1


def result_type(*operands: Any) -> DType | None:
    """The dtype of an arithmetic result on tensor types and numbers; None if PyTorch has no common dtype."""
    with_dims: DType | None = None
    without: DType | None = None
    numbers: DType | None = None
    for operand in operands:
        if isinstance(operand, TensorType):
            if operand.shape:
                with_dims = operand.dtype if with_dims is None else promote(with_dims, operand.dtype)
                if with_dims is None:
                    return None
            else:
                without = operand.dtype if without is None else promote(without, operand.dtype)
                if without is None:
                    return None
        else:
            dtype = number_dtype(operand)
            numbers = dtype if numbers is None else promote(numbers, dtype)
    return _outrank(with_dims, _outrank(without, numbers))


def _outrank(higher: DType | None, lower: DType | None) -> DType | None:
    if higher is None or lower is None:
        return higher or lower
    if category(lower) <= category(higher):
        return higher
    if higher.is_floating:  # lower is complex: the complex dtype of the float's width
        return {DType.F64: DType.C128, DType.F32: DType.C64}.get(higher)
    return promote(higher, lower)


def float_result(*operands: Any) -> DType | None:
    """The dtype of an operation whose result on integers is floating."""
    dtype = result_type(*operands)
    return default_float() if dtype is not None and category(dtype) < 2 else dtype
