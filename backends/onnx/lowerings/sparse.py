"""Layers with sparse weights: ONNX has no operator for them, so their weights are laid out densely.

The numbers are the same, at the cost of the dense layer; `sparse_initializers` makes the file as small as the weights.
"""

from __future__ import annotations

import math

import torch

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.conv import convolve
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import LOWERINGS, Call, Declined, lowers
from graphopt.ops.sparse import dense


@lowers("graphopt.sparse_linear")
def _lower_sparse_linear(e: Emitter, a: Call) -> Tensor:
    """One Gemm for a matrix; for more dims a MatMul by the transposed weight."""
    weight = _dense(e, a, (int(a.in_features),))
    if a.input.rank == 2:
        return _activated(e, a, e.op("Gemm", a.input, weight, a.bias, transB=1))
    y = e.op("MatMul", a.input, e.derived(weight, "transposed", torch.Tensor.t), shape=a.out.shape)
    return _activated(e, a, y if a.bias is None else e.op("Add", y, a.bias))


@lowers("graphopt.sparse_conv")
def _lower_sparse_conv(e: Emitter, a: Call) -> Tensor:
    """In as many groups as the zeros leave."""
    channels = a.input.dims[-len(a.kernel_size) - 1]
    if not isinstance(channels, int):
        raise Declined("the number of channels is not static")
    whole = _dense(e, a, (channels, *a.kernel_size))
    assert whole.data is not None
    groups = _groups(whole.data)
    weight = whole if groups == 1 else e.derived(whole, "grouped", lambda data: _diagonal(data, groups))
    dense_call = Call(a.node, {**vars(a), "weight": weight, "groups": groups})
    return _activated(e, a, convolve(e, dense_call, a.input, len(a.kernel_size)))


def _groups(weight: torch.Tensor) -> int:
    """The most groups of channels outside of which a weight [O, C, …] is zero."""
    outputs, inputs = weight.shape[:2]
    row, channel = (weight != 0).flatten(2).any(2).nonzero(as_tuple=True)
    for groups in range(math.gcd(outputs, inputs), 1, -1):
        divides = outputs % groups == inputs % groups == 0
        if divides and bool((row // (outputs // groups) == channel // (inputs // groups)).all()):
            return groups
    return 1


def _diagonal(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """[O, C, …] → [O, C / groups, …]: what each group reads."""
    blocks = weight.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    return torch.cat([blocks[group, :, group] for group in range(groups)])


def _dense(e: Emitter, a: Call, columns: tuple[int, ...]) -> Tensor:
    """The weight [O, columns…]."""
    crow, column = a.crow_indices.data, a.col_indices.data
    if crow is None or column is None or a.values.data is None:
        raise Declined("its weight is no stored tensor")

    def laid_out(values: torch.Tensor) -> torch.Tensor:
        return dense(crow, column, values, math.prod(columns)).reshape(-1, *columns).contiguous()

    return e.derived(a.values, "dense", laid_out)


def _activated(e: Emitter, a: Call, x: Tensor) -> Tensor:
    if a.activation == "none":
        return x
    lowered = LOWERINGS[f"aten.{a.activation}"](e, Call(a.node, {"self": x, "approximate": "none"}))
    assert isinstance(lowered, Tensor)
    return lowered
