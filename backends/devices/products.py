"""Quantized layers as products of 8-bit numbers, where the device has such kernels.

    linear(D(x), D(W), b)   →   int8_product(x, W, …, b)  or  float8_product(x, W, …, b)

x has one scale, W one or one for each output and no zero points.
"""

from __future__ import annotations

import torch

from graphopt.backends.devices.driver import Driver
from graphopt.backends.devices.product_kernels import FLOAT8, INT8, MULTIPLES, padded
from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.rewrite import Rewriter
from graphopt.targets import Device

_DECODE = "graphopt.dequantize"


def lower_products(part: Graph, device: Device, driver: Driver) -> Graph:
    """Return a graph in which kernels of 8-bit numbers compute the layers that they can; the graph itself if none."""
    if not any(node.op.name == _DECODE for node in part):
        return part
    copy = part.clone()
    rewriter = Rewriter(copy)
    for node in list(copy):
        kernel = _kernel(node)
        if kernel is not None and driver.has("int8" if kernel == INT8 else "fp8", device.name):
            _lower(node, kernel, rewriter)
    for node in reversed(list(copy)):
        if node.op.name == _DECODE and not node.result.num_uses:
            rewriter.erase(node)
    for value in [value for value in copy.constants.values() if not value.num_uses]:
        rewriter.drop_constant(value)
    return copy


def _kernel(node: Node) -> str | None:
    """The kernel that computes a layer, if one does."""
    if node.op.name != "aten.linear" or not isinstance(node.result.type, TensorType):
        return None
    x, weight = (_decoded(node.operands[index]) for index in (0, 1))
    if x is None or weight is None or node.result.type.dtype is not DType.F32 or not _is_bias(node.operands[2]):
        return None
    zero, weight_zero = _stored(x.operands[2]), _stored(weight.operands[2])
    integers, scale = _stored(weight.operands[0]), _stored(weight.operands[1])
    input_scale = _stored(x.operands[1])
    if integers is None or scale is None or input_scale is None or integers.dim() != 2 or input_scale.numel() != 1:
        return None
    if x.attr("block_size") or weight.attr("block_size") or (weight_zero is not None and bool(weight_zero.any())):
        return None
    if weight.attr("axis") not in (None, 0, -2) or (x.operands[2] is not None and zero is None):
        return None
    formats = (x.attr("dtype"), weight.attr("dtype"))
    if formats in (("int8", "int8"), ("uint8", "int8")):
        return INT8
    return FLOAT8 if formats == ("float8_e4m3fn", "float8_e4m3fn") else None


def _lower(node: Node, kernel: str, rewriter: Rewriter) -> None:
    x, weight = _decoded(node.operands[0]), _decoded(node.operands[1])
    assert x is not None and weight is not None and isinstance(node.result.type, TensorType)
    integers, scale, input_scale = (_needed(v) for v in (weight.operands[0], weight.operands[1], x.operands[1]))
    device, name = node.result.type.device, node.result.name or "product"
    stored = rewriter.constant(padded(integers, MULTIPLES[kernel]), f"{name}_weight", device=device)
    if kernel == INT8:
        zero = 0 if x.operands[2] is None else int(_needed(x.operands[2]))
        zero -= 128 if x.attr("dtype") == "uint8" else 0
        second, factor = zero * integers.sum(1, dtype=torch.int32), input_scale.reshape(()) * scale
    else:
        second, factor = input_scale.float().reshape(()), scale
    operands = (
        rewriter.constant(second.contiguous(), f"{name}_second", device=device),
        rewriter.constant(factor.float().reshape(-1).contiguous(), f"{name}_scale", device=device),
    )
    with rewriter.at(node, "8-bit-product"):
        made = rewriter.create(kernel, x.operands[0], stored, *operands, node.operands[2], size=integers.shape[0])
    rewriter.replace(node, [made.result])


def _decoded(value: Value | None) -> Node | None:
    node = None if value is None else value.producer
    return node if node is not None and node.op.name == _DECODE else None


def _stored(value: Value | None) -> torch.Tensor | None:
    return None if value is None or value.constant is None else value.constant.tensor.detach()


def _needed(value: Value | None) -> torch.Tensor:
    found = _stored(value)
    assert found is not None
    return found


def _is_bias(value: Value | None) -> bool:
    return value is None or (isinstance(value.type, TensorType) and value.type.dtype is DType.F32)
