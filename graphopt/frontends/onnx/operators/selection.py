"""What is chosen by contents: distinct elements, elements where a condition holds. Results have sizes of their own."""

from __future__ import annotations

from typing import Any

from graphopt.frontends.onnx.application import Application, tensor_type, translates
from graphopt.ir import DType, Value


@translates("NonZero")
def non_zero(a: Application) -> Value:
    """The indices of what is not zero, one column each."""
    x = a[0] if a.type(0).rank else a.reshape(a[0], (1,))
    return a.emit("aten.permute", a.emit("aten.nonzero", x), [1, 0])


@translates("Compress")
def compress(a: Application) -> Value:
    """The slices along an axis, or the elements in row-major order, where a condition holds."""
    a.compose()
    x, axis = a[0], a.attr("axis")
    if axis is None:
        x, axis = a.reshape(x, (tensor_type(x).numel,)), 0
    where = a.emit("aten.nonzero", a[1])
    return a.emit("aten.index_select", x, axis, a.emit("aten.select.int", where, 1, 0))


@translates("Unique")
def unique(a: Application) -> Any:
    """Distinct elements or slices, where each is first, which of them each element is, and how often each occurs.

    Sorted, or in the order in which they come first.
    """
    a.compose()
    x, axis = a[0], a.attr("axis")
    if axis is None:
        x = a.reshape(x, (tensor_type(x).numel,))
        values, inverse, counts = a.emit_all("aten._unique2", x, True, True, True)
        axis = 0
    else:
        values, inverse, counts = a.emit_all("aten.unique_dim", x, axis, True, True, True)
    first = _first(a, inverse, counts)
    if not a.attr("sorted", 1):
        order = a.emit("aten.argsort.stable", first, stable=True)
        place = a.emit("aten.argsort.stable", order, stable=True)
        values = a.emit("aten.index_select", values, axis, order)
        first, counts = (a.emit("aten.index_select", v, 0, order) for v in (first, counts))
        inverse = a.emit("aten.index_select", place, 0, inverse)
    return [values, first, inverse, counts][: a.num_outputs]


def _first(a: Application, inverse: Value, counts: Value) -> Value:
    """The lowest position of each distinct element."""
    positions = a.emit("aten.arange", tensor_type(inverse).shape[0], dtype=DType.I64)
    start = a.emit("aten.zeros_like", counts)
    return a.emit("aten.scatter_reduce.two", start, 0, inverse, positions, "amin", include_self=False)
