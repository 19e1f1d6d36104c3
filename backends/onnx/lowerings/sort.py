"""Sorting."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.leading import top
from graphopt.backends.onnx.lowerings.views import pick
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, lowers
from graphopt.backends.onnx.shaping import normal_axis, reshape, unsqueeze
from graphopt.ir import DType
from graphopt.ir.dims import product


@lowers("aten.topk")
def _lower_topk(e: Emitter, a: Call) -> Sequence[Tensor]:
    if a.self.rank == 0:
        return a.self, e.scalar(0, DType.I64)
    return top(e, a.self, a.k, normal_axis(a.dim, a.self.rank), a.largest)


@lowers("aten.sort", "aten.sort.stable")
def _lower_sort(e: Emitter, a: Call) -> Sequence[Tensor]:
    return _sorted(e, a)


def _sorted(e: Emitter, a: Call) -> Sequence[Tensor]:
    if a.self.rank == 0:
        return a.self, e.scalar(0, DType.I64)
    axis = normal_axis(a.dim, a.self.rank)
    return top(e, a.self, a.self.dims[axis], axis, a.descending)


@lowers("aten.argsort", "aten.argsort.stable")
def _lower_argsort(e: Emitter, a: Call) -> Tensor:
    return _sorted(e, a)[1]


@lowers("aten.kthvalue")
def _lower_kthvalue(e: Emitter, a: Call) -> Sequence[Tensor]:
    if a.self.rank == 0:
        return a.self, e.scalar(0, DType.I64)
    axis = normal_axis(a.dim, a.self.rank)
    results = [pick(e, t, axis, a.k - 1) for t in top(e, a.self, a.k, axis, largest=False)]
    return [unsqueeze(e, t, [axis]) for t in results] if a.keepdim else results


@lowers("aten.median", "aten.median.dim")
def _lower_median(e: Emitter, a: Call) -> Tensor | Sequence[Tensor]:
    """The lower of the two middle elements."""
    x = a.self
    if x.rank == 0:
        return x if len(a.types) == 1 else (x, e.scalar(0, DType.I64))
    if len(a.types) == 1:
        flat = reshape(e, x, (product(x.dims),))
        return pick(e, top(e, flat, flat.dims[0], 0, largest=False)[0], 0, (flat.dims[0] - 1) // 2)
    axis = normal_axis(a.dim, x.rank)
    middle = (x.dims[axis] - 1) // 2
    results = [pick(e, t, axis, middle) for t in top(e, x, middle + 1, axis, largest=False)]
    return [unsqueeze(e, t, [axis]) for t in results] if a.keepdim else results
