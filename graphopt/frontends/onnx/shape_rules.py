"""What is computed from known sizes is known: rules on `Known` contents, tried before an operator is translated.

Each returns the contents of the result, or None where they are not known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.frontends.onnx.application import Application, numbers_of
from graphopt.frontends.onnx.entries import Known, as_array
from graphopt.ir import DType
from graphopt.ir.dim_ops import dim_max, dim_min, floordiv, mod, product
from graphopt.ir.dims import Dim, equal, less
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE

ShapeRule = Callable[[Application], "Known | None"]

SHAPE_RULES: dict[str, ShapeRule] = {}


def shape_rule(*names: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a rule for operators."""

    def register(function: ShapeRule) -> ShapeRule:
        SHAPE_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _operands(a: Application) -> list[np.ndarray] | None:
    """The contents of all operands, or None if some are not known."""
    found = [a.contents(i) for i in range(len(a.inputs))]
    return None if any(f is None for f in found) else [f.elements for f in found if f is not None]


def _dtype(a: Application) -> DType:
    found = a.contents(0)
    assert found is not None
    return found.dtype


def _elementwise(name: str, function: Callable[..., Dim | None]) -> None:
    def rule(a: Application) -> Known | None:
        operands = _operands(a)
        if operands is None:
            return None
        arrays = np.broadcast_arrays(*operands)
        result = np.empty(arrays[0].shape, dtype=object)
        for index in np.ndindex(result.shape):
            element = function(*(array[index] for array in arrays))
            if element is None:
                return None
            result[index] = element
        return Known(result, _dtype(a))

    SHAPE_RULES[name] = rule


def _truncating(a: Dim, b: Dim) -> Dim | None:
    """Integer division as ONNX means it, towards zero; known where neither side is negative."""
    signs = (less(a, 0), less(b, 1))
    return floordiv(a, b) if signs == (False, False) else None


def _power(a: Dim, b: Dim) -> Dim | None:
    return product([a] * b) if isinstance(b, int) and 0 <= b <= 4 else None


_elementwise("Add", lambda x, y: x + y)
_elementwise("Sub", lambda x, y: x - y)
_elementwise("Mul", lambda x, y: x * y)
_elementwise("Div", _truncating)
_elementwise("Mod", lambda x, y: mod(x, y) if less(y, 1) is False else None)
_elementwise("Pow", _power)
_elementwise("Neg", lambda x: -x)
_elementwise("Abs", lambda x: x if less(x, 0) is False else None)
_elementwise("Max", dim_max)
_elementwise("Min", dim_min)
_elementwise("Identity", lambda x: x)


@shape_rule("Cast")
def cast(a: Application) -> Known | None:
    """Between integer types only: a float would no longer be a dim."""
    found, dtype = a.contents(0), FROM_ONNX_CODE.get(a.attr("to"))
    return Known(found.elements, dtype) if found is not None and dtype in (DType.I64, DType.I32) else None


@shape_rule("Gather")
def gather(a: Application) -> Known | None:
    """Elements at constant indices."""
    operands = _operands(a)
    if operands is None or not all(isinstance(i, int) for i in operands[1].reshape(-1)):
        return None
    return Known(_object(np.take(operands[0], operands[1].astype(np.int64), axis=a.attr("axis", 0))), _dtype(a))


@shape_rule("Slice")
def slice_(a: Application) -> Known | None:
    """A slice of a vector of sizes."""
    found = a.contents(0)
    bounds = [a.ints("starts", 1), a.ints("ends", 2)]
    axes = a.ints("axes", 3)
    if found is None or found.elements.ndim != 1 or axes not in (None, [0], [-1]):
        return None
    steps = a.numbers(4) if a.has(4) else [1]
    assert bounds[0] is not None and bounds[1] is not None
    start, end, step = bounds[0][0], bounds[1][0], steps[0]
    size = len(found.elements)
    whole = step < 0 and end < -size  # down to the first element, which no end can say
    return Known(found.elements[slice(start, None if whole else end, step)], found.dtype)


@shape_rule("Concat")
def concat(a: Application) -> Known | None:
    """Sizes beside sizes."""
    operands = _operands(a)
    return None if operands is None else Known(np.concatenate(operands, axis=a.attr("axis", 0)), _dtype(a))


@shape_rule("Unsqueeze")
def unsqueeze(a: Application) -> Known | None:
    """A size as a vector of one."""
    found, axes = a.contents(0), a.ints("axes", 1)
    return None if found is None or axes is None else Known(np.expand_dims(found.elements, tuple(axes)), found.dtype)


@shape_rule("Squeeze")
def squeeze(a: Application) -> Known | None:
    """A vector of one as a size."""
    found, axes = a.contents(0), a.ints("axes", 1)
    if found is None:
        return None
    return Known(_object(np.squeeze(found.elements, None if axes is None else tuple(axes))), found.dtype)


@shape_rule("Reshape")
def reshape(a: Application) -> Known | None:
    """Sizes in another arrangement."""
    found = a.contents(0)
    target = a.contents(1)
    if found is None or target is None or not target.is_static:
        return None
    sizes = numbers_of(target.flat, "Reshape")
    shape = [found.shape[i] if d == 0 else d for i, d in enumerate(sizes)]
    return Known(found.elements.reshape(shape), found.dtype)


@shape_rule("Size")
def size(a: Application) -> Known | None:
    """How many sizes there are."""
    found = a.contents(0)
    return None if found is None else Known(_object(found.elements.size))


@shape_rule("Shape")
def shape(a: Application) -> Known | None:
    """How long a vector of sizes is."""
    found = a.contents(0)
    return None if found is None else Known(as_array(found.shape))


@shape_rule("ReduceProd")
def reduce_prod(a: Application) -> Known | None:
    """The number of elements of a shape."""
    found = a.contents(0)
    if found is None or found.elements.ndim != 1:
        return None
    result = _object(product(found.flat))
    return Known(result.reshape(1) if a.attr("keepdims", 1) else result, found.dtype)


@shape_rule("Where")
def where(a: Application) -> Known | None:
    """A choice by a constant condition."""
    condition, operands = a.numbers(0), [a.contents(1), a.contents(2)]
    if operands[0] is None or operands[1] is None:
        return None
    truth = np.array(condition, dtype=bool).reshape(numbers_of(a.type(0).shape, "Where"))
    return Known(_object(np.where(truth, operands[0].elements, operands[1].elements)), operands[0].dtype)


@shape_rule("Equal")
def equal_(a: Application) -> Known | None:
    """A comparison that holds for every size."""
    operands = _operands(a)
    if operands is None:
        return None
    left, right = np.broadcast_arrays(*operands)
    answers = [equal(x, y) for x, y in zip(left.reshape(-1), right.reshape(-1))]
    if any(answer is None for answer in answers):
        return None
    return Known(as_array(answers).reshape(left.shape), DType.BOOL)


def _object(value: Any) -> np.ndarray:
    """An array of objects, also where NumPy gave a bare element."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=object)
    array[()] = value
    return array
