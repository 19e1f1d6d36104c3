"""What is computed from known sizes is known: rules on `Known` contents, tried before an operator is translated.

Each returns the contents of the result, or of several, or None where they are not known.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from graphopt.frontends.onnx.application import Application, numbers_of
from graphopt.frontends.onnx.entries import Known, as_array
from graphopt.ir import DType, Expr
from graphopt.ir.dim_ops import dim_max, dim_min, floordiv, mod, product
from graphopt.ir.dims import Dim, equal, exact_div, less
from graphopt.ops.onnx_dtypes import FROM_ONNX_CODE

ShapeRule = Callable[[Application], "Known | list[Known] | None"]

LARGEST = 1024
"""What has more elements is computed as the model runs."""

SHAPE_RULES: dict[str, ShapeRule] = {}


def shape_rule(*names: str) -> Callable[[ShapeRule], ShapeRule]:
    """Register a rule for operators."""

    def register(function: ShapeRule) -> ShapeRule:
        SHAPE_RULES.update(dict.fromkeys(names, function))
        return function

    return register


def known_results(a: Application) -> list[Known] | None:
    """What is known of the results of a node, if anything is."""
    rule = SHAPE_RULES.get(a.name)
    try:
        found = None if rule is None else rule(a)
    except (ValueError, IndexError):  # NumPy says that the node is invalid; so will the inference of types
        return None
    return found if found is None or isinstance(found, list) else [found]


def _operands(a: Application) -> list[np.ndarray] | None:
    """The contents of all operands, or None if some are not known."""
    found = [a.contents(i) for i in range(len(a.inputs))]
    return None if any(f is None for f in found) else [f.elements for f in found if f is not None]


def _dtype(a: Application) -> DType:
    found = a.contents(0)
    assert found is not None
    return found.dtype


def _elementwise(name: str, function: Callable[..., Dim | None], dtype: DType | None = None) -> None:
    """A function of each element that may be unknown; dtype: of the result, if not that of the first operand."""

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
        return Known(result, _dtype(a) if dtype is None else dtype)

    SHAPE_RULES[name] = rule


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _truncating(a: Dim, b: Dim) -> Dim | None:
    """Integer division as ONNX means it, towards zero; known where it is exact, or neither side is negative."""
    if equal(b, 0) is True:
        return None
    exact = exact_div(a, b)
    return floordiv(a, b) if exact is None and _none_negative(a, b) else exact


def _remainder(a: Dim, b: Dim) -> Dim | None:
    """The remainder with the sign of the divisor."""
    if equal(b, 0) is True:
        return None
    if exact_div(a, b) is not None:
        return 0
    return mod(a, b) if less(b, 0) is False else None


def _none_negative(a: Dim, b: Dim) -> bool:
    return (less(a, 0), less(b, 0)) == (False, False)


def _power(a: Dim, b: Dim) -> Dim | None:
    return product([a] * b) if isinstance(b, int) and 0 <= b <= 4 else None


_elementwise("Add", lambda x, y: x + y)
_elementwise("Sub", lambda x, y: x - y)
_elementwise("Mul", lambda x, y: x * y)
_elementwise("Div", _truncating)
_elementwise("Mod", _remainder)
_elementwise("Pow", _power)
_elementwise("Neg", lambda x: -x)
_elementwise("Abs", lambda x: x if less(x, 0) is False else None)
_elementwise("Max", dim_max)
_elementwise("Min", dim_min)
_elementwise("Identity", lambda x: x)
_elementwise("Equal", equal, DType.BOOL)
_elementwise("Less", less, DType.BOOL)
_elementwise("Greater", lambda x, y: less(y, x), DType.BOOL)
_elementwise("LessOrEqual", lambda x, y: _negated(less(y, x)), DType.BOOL)
_elementwise("GreaterOrEqual", lambda x, y: _negated(less(x, y)), DType.BOOL)
_elementwise("Not", lambda x: not x, DType.BOOL)
_elementwise("And", lambda x, y: x and y, DType.BOOL)
_elementwise("Or", lambda x, y: x or y, DType.BOOL)


@shape_rule("Cast")
def cast(a: Application) -> Known | None:
    """Between integer types only: a float would no longer be a dim."""
    found, dtype = a.contents(0), FROM_ONNX_CODE.get(a.attr("to"))
    if found is None or dtype not in (DType.I64, DType.I32):
        return None
    return Known(as_array([x if isinstance(x, Expr) else int(x) for x in found.flat], found.shape), dtype)


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
    rest = [a.contents(i) for i in range(1, len(a.inputs)) if a.has(i)]
    if found is None or found.elements.ndim != 1 or not all(known is not None and known.is_static for known in rest):
        return None
    starts, ends, axes = a.ints("starts", 1), a.ints("ends", 2), a.ints("axes", 3)
    if axes not in (None, [0], [-1]):
        return None
    assert starts is not None and ends is not None
    start, end, step = starts[0], ends[0], a.numbers(4)[0] if a.has(4) else 1
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


REDUCTIONS: dict[str, Callable[[list[Dim]], Dim]] = {
    "ReduceMax": lambda dims: reduce(dim_max, dims),
    "ReduceMin": lambda dims: reduce(dim_min, dims),
    "ReduceProd": product,
    "ReduceSum": sum,
}


@shape_rule(*REDUCTIONS)
def reduced(a: Application) -> Known | None:
    """The product of a shape is its number of elements."""
    found = a.contents(0)
    if found is None or found.elements.ndim != 1 or not found.flat or a.attr("noop_with_empty_axes", 0):
        return None
    result = _object(REDUCTIONS[a.name](found.flat))
    return Known(result.reshape(1) if a.attr("keepdims", 1) else result, found.dtype)


@shape_rule("Where")
def where(a: Application) -> Known | None:
    """A choice by a known condition."""
    condition, yes, no = a.contents(0), a.contents(1), a.contents(2)
    if condition is None or yes is None or no is None or not condition.is_static:
        return None
    chosen = np.where(condition.elements.astype(bool), yes.elements, no.elements)
    return Known(_object(chosen), yes.dtype)


@shape_rule("Expand")
def expand(a: Application) -> Known | None:
    """A size several times."""
    found, target = a.contents(0), a.contents(1)
    if found is None or target is None or not target.is_static:
        return None
    shape = np.broadcast_shapes(found.shape, tuple(numbers_of(target.flat, "Expand")))
    return Known(np.broadcast_to(found.elements, shape), found.dtype) if np.prod(shape) <= LARGEST else None


@shape_rule("Tile")
def tile(a: Application) -> Known | None:
    """Sizes several times."""
    found, repeats = a.contents(0), a.contents(1)
    if found is None or repeats is None or not repeats.is_static:
        return None
    counts = numbers_of(repeats.flat, "Tile")
    return Known(np.tile(found.elements, counts), found.dtype) if np.prod(counts) <= LARGEST else None


@shape_rule("Transpose")
def transpose(a: Application) -> Known | None:
    """Sizes in another order of dims."""
    found = a.contents(0)
    return None if found is None else Known(found.elements.transpose(a.attr("perm")), found.dtype)


@shape_rule("Split")
def split(a: Application) -> list[Known] | None:
    """A shape in parts."""
    found, sizes = a.contents(0), a.attr("split")
    if found is None or found.elements.ndim != 1:
        return None
    if a.has(1):
        given = a.contents(1)
        if given is None or not given.is_static:
            return None
        sizes = given.flat
    count, total = a.attr("num_outputs", a.num_outputs), found.elements.size
    part = -(-total // count)
    ends = np.cumsum(sizes) if sizes is not None else np.minimum(np.arange(1, count + 1) * part, total)
    return [Known(piece, found.dtype) for piece in np.split(found.elements, ends[:-1])]


@shape_rule("ScatterElements", "ScatterND")
def scattered(a: Application) -> Known | None:
    """A shape with some sizes replaced."""
    operands = _operands(a)
    if operands is None or a.attr("reduction", "none") != "none":
        return None
    found, indices, updates = operands
    if found.ndim != 1 or not all(isinstance(i, int) for i in indices.reshape(-1)):
        return None
    if a.name == "ScatterND" and indices.shape[-1:] != (1,):
        return None
    result = found.copy()
    result[indices.reshape(-1).astype(np.int64)] = updates.reshape(-1)
    return Known(result, _dtype(a))


def _object(value: Any) -> np.ndarray:
    """An array of objects, also where NumPy gave a bare element."""
    if isinstance(value, np.ndarray):
        return value
    array = np.empty((), dtype=object)
    array[()] = value
    return array
