"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.backends.onnx.emitter import Emitter
from graphopt.backends.onnx.lowerings.common import pair
from graphopt.backends.onnx.records import Tensor
from graphopt.backends.onnx.registry import Call, Declined, Lowering, lowers, lowers_each
from graphopt.backends.onnx.shaping import reshape, unsqueeze
from graphopt.ir import Node, Value


def _convolution(rank: int) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        return convolve(e, a, a.input, rank)

    return lower


lowers_each({"aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}, _convolution)
lowers_each({"aten.conv1d.padding": 1, "aten.conv2d.padding": 2, "aten.conv3d.padding": 3}, _convolution)


def convolve(e: Emitter, a: Call, x: Tensor, rank: int) -> Tensor:
    """A convolution over `rank` spatial dims; an input without a batch gets one and loses it again."""
    dilations = pair(a.dilation, rank)
    pads = _pads(a.padding, kernel(a.weight), dilations)
    padded = _padding_before(a.node, rank)
    if padded is not None:
        source, more = padded
        x, pads = e.tensor(source), [p + m for p, m in zip(pads, more)]
    batched = x if x.rank == rank + 2 else unsqueeze(e, x, [0])
    y = e.op(
        "Conv",
        batched,
        a.weight,
        a.bias,
        kernel_shape=kernel(a.weight),
        strides=pair(a.stride, rank),
        pads=pads,
        dilations=dilations,
        group=a.groups,
    )
    return y if batched is x else reshape(e, y, a.out.shape)


def _padding_before(node: Node, rank: int) -> tuple[Value, list[int]] | None:
    """What is padded with zeros before the layer, and by how much before and after each spatial dim.

    PyTorch's layers pad both sides alike, ONNX's each by its own number.
    """
    pad = node.operands[0].producer if node.operands[0] is not None else None
    if pad is None or pad.op.name != "aten.constant_pad_nd" or pad.attr("value") != 0:
        return None
    source, amounts = pad.operands[0], list(pad.attr("pad"))
    if source is None or any(amounts[2 * rank :]) or not all(isinstance(n, int) and n >= 0 for n in amounts):
        return None
    amounts = [*amounts, *[0] * (2 * rank - len(amounts))][: 2 * rank]
    return source, amounts[-2::-2] + amounts[::-2]


def kernel(weight: Tensor) -> list[int]:
    """The spatial size of a weight."""
    sizes = [d for d in weight.dims[2:] if isinstance(d, int)]
    if len(sizes) != weight.rank - 2:
        raise Declined("the kernel's size is not static")
    return sizes


def _pads(padding: Any, sizes: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """Padding before, then after, of each spatial dim. "same" puts the odd one after."""
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, sizes)]
        return [t // 2 for t in total] + [t - t // 2 for t in total]
    if padding == "valid":
        return [0] * (2 * len(sizes))
    return pair(padding, len(sizes)) * 2


def _transposed(rank: int) -> Lowering:
    def lower(e: Emitter, a: Call) -> Tensor:
        return convolve_transposed(e, a, a.input, rank)

    return lower


lowers_each(
    {"aten.conv_transpose1d": 1, "aten.conv_transpose2d.input": 2, "aten.conv_transpose3d.input": 3}, _transposed
)


def convolve_transposed(e: Emitter, a: Call, x: Tensor, rank: int) -> Tensor:
    """A transposed convolution over `rank` spatial dims."""
    batched = x if x.rank == rank + 2 else unsqueeze(e, x, [0])
    y = e.op(
        "ConvTranspose",
        batched,
        a.weight,
        a.bias,
        kernel_shape=kernel(a.weight),
        strides=pair(a.stride, rank),
        pads=pair(a.padding, rank) * 2,
        output_padding=pair(a.output_padding, rank),
        dilations=pair(a.dilation, rank),
        group=a.groups,
    )
    return y if batched is x else reshape(e, y, a.out.shape)


@lowers("aten.convolution")
def _lower_convolution(e: Emitter, a: Call) -> Tensor:
    run = convolve_transposed if a.transposed else convolve
    return run(e, a, a.input, a.weight.rank - 2)
