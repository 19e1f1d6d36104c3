"""The first of sorted elements: `TopK`, in which equal elements keep their order."""

from __future__ import annotations

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call
from graphopt.backends.onnx.shaping import normal_axis
from graphopt.ir import DType
from graphopt.ir.dims import Dim

SORTS = ("aten.sort", "aten.sort.stable")


def top(e: Emitter, x: Tensor, count: Dim, axis: int, largest: bool) -> tuple[Tensor, ...]:
    """The `count` first elements in order, and their indices. Equal elements keep their order."""
    shape = (*x.dims[:axis], count, *x.dims[axis + 1 :])
    return e.ops(
        "TopK",
        x,
        [count],
        dtypes=(None, DType.I64),
        shapes=(shape, shape),
        axis=axis,
        largest=int(largest),
        sorted=1,
    )


def leading(e: Emitter, a: Call) -> Tensor | None:
    """What a slice takes from the start of what was sorted along its dim; None for another slice.

    Nothing is left of the sort if all that is used of it are such slices.
    """
    value = a.node.operands[0]
    sort = None if value is None else value.producer
    if value is None or sort is None or sort.op.name not in SORTS or not a.self.rank:
        return None
    axis = normal_axis(a.dim, a.self.rank)
    step = 1 if a.node.op.name == "aten.narrow" else a.step
    if a.start not in (None, 0) or step != 1 or normal_axis(sort.attr("dim"), a.self.rank) != axis:
        return None
    (source,) = sort.inputs
    count, largest = a.out.shape[axis], bool(sort.attr("descending"))

    def make() -> Tensor:
        values, indices = top(e, e.tensor(source), count, axis, largest)
        e.body.made["indices", sort, count] = indices
        return values

    values = e.once(("values", sort, count), make)
    return values if value.index == 0 else e.once(("indices", sort, count), lambda: values)
