"""Mixtures of experts: matrix products of groups of rows, each with its own weight."""

from __future__ import annotations

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, lowers
from graphopt.backends.onnx.shaping import END, concat
from graphopt.ir import DType


@lowers("transformers.grouped_mm_fallback")
def _lower_grouped_mm_fallback(e: Emitter, a: Call) -> Tensor:
    return grouped_product(e, a.input, a.weight, a.offs)


@lowers("aten._grouped_mm")
def _lower_grouped_mm(e: Emitter, a: Call) -> Tensor:
    if a.self.rank != 2 or a.mat2.rank != 3 or a.offs is None or a.bias is not None:
        raise Declined("grouped products other than of a matrix by a stack")
    return grouped_product(e, a.self, a.mat2, a.offs)


def grouped_product(e: Emitter, x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Rows `ends[g-1]` to `ends[g]` of x times `weights[g]`; rows after the last group are zero."""
    groups, columns = weights.dims[0], weights.dims[2]
    if not isinstance(groups, int):
        raise Declined("grouped products with a dynamic number of groups")
    ends = e.cast(ends, DType.I64)
    start = e.ints([0])
    pieces = []
    for group in range(groups):
        end = e.op("Slice", ends, [group], [group + 1], [0], shape=(1,))
        rows = e.op("Slice", x, start, end, [0])
        weight = e.op("Gather", weights, e.scalar(group, DType.I64), axis=0, shape=weights.dims[1:])
        pieces.append(e.op("MatMul", rows, weight))
        start = end
    rest = e.op("Shape", e.op("Slice", x, start, [END], [0]), start=0, end=1, dtype=DType.I64, shape=(1,))
    size = e.op("Concat", rest, e.sizes.vector([columns]), axis=0, shape=(2,))
    pieces.append(e.op("ConstantOfShape", size, value=torch.zeros(1, dtype=x.dtype.torch), dtype=x.dtype))
    return concat(e, pieces, 0)
