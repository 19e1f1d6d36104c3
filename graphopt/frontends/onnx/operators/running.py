"""Running sums and products."""

from __future__ import annotations

from graphopt.frontends.onnx.application import Application, tensor_type, translates
from graphopt.ir import Value

FUNCTIONS = {"CumSum": ("aten.cumsum", 0), "CumProd": ("aten.cumprod", 1)}
"""The PyTorch operator, and what it gives of no elements."""


@translates(*FUNCTIONS)
def running(a: Application) -> Value:
    """Exclusive ones leave the element itself out, reverse ones run from the end."""
    x, reverse = a[0], bool(a.attr("reverse", 0))
    axis = int(a.numbers(1)[0]) % tensor_type(x).rank
    name, neutral = FUNCTIONS[a.name]
    if a.name == "CumSum" and (reverse or a.attr("exclusive", 0)):
        a.compose()
    if reverse:
        x = a.emit("aten.flip", x, [axis])
    total = a.emit(name, x, axis, dtype=tensor_type(x).dtype)
    if a.attr("exclusive", 0):
        total = _delayed(a, total, axis, neutral)
    return a.emit("aten.flip", total, [axis]) if reverse else total


def _delayed(a: Application, x: Value, axis: int, first: int) -> Value:
    """Each element one place later. A subtraction would round, and fail where there are infinities."""
    after = tensor_type(x).rank - 1 - axis
    longer = a.emit("aten.constant_pad_nd", x, [0, 0] * after + [1, 0], first)
    return a.emit("aten.slice.Tensor", longer, axis, 0, tensor_type(x).shape[axis])
