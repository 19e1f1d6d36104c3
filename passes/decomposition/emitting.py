"""Chains of factors as nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphopt.ir import Constant, ConstantKind, Node, TensorType, Value
from graphopt.passes.decomposition.factors import Factor
from graphopt.passes.decomposition.sites import Geometry, Site
from graphopt.passes.support.constants import drop_unused, take_name
from graphopt.rewrite import Rewriter


def replace_layer(
    site: Site, chain: Sequence[Factor], shift: torch.Tensor | None, rewriter: Rewriter, name: str
) -> list[Value]:
    """Put a chain in the place of a layer, in all nodes that read its weight; return the stored factors.

    shift: what to add to the bias, [out of all groups]. name: of the pass.
    """
    stored = [_factor(site, index, factor, rewriter) for index, factor in enumerate(chain)]
    biases: dict[Value | None, Value | None] = {}
    for node in site.nodes:
        source, bias = operands(site, node)
        if bias not in biases:
            biases[bias] = bias if shift is None else _shifted(site, bias, shift, rewriter)
        with rewriter.at(node, name):
            last = emit(rewriter, site, source, stored, chain, biases[bias])
        rewriter.replace(node, [last])
    drop_unused(rewriter, site.layer.weight)
    for old, new in biases.items():
        if old is not None and new is not None and old is not new:
            drop_unused(rewriter, old)
            take_name(rewriter, new, old.name)
    return stored


def operands(site: Site, node: Node) -> tuple[Value, Value | None]:
    """What a node reads, and its bias."""
    base = node.op.base
    if base == "aten.embedding":
        source, bias = node.operands[1], None
    elif base == "aten.addmm":
        source, bias = node.operands[1], node.operands[0]
    elif site.layer.kind == "product":
        source, bias = node.operands[0], None
    else:
        source, bias = node.operands[0], node.operands[2]
    assert source is not None
    return source, bias


def emit(
    rewriter: Rewriter,
    site: Site,
    source: Value,
    weights: Sequence[Value],
    chain: Sequence[Factor],
    bias: Value | None,
) -> Value:
    """Create the nodes of a chain."""
    value = source
    for index, (weight, factor) in enumerate(zip(weights, chain)):
        added = bias if index == len(chain) - 1 else None
        if site.shape.kind == "embedding" and not index:
            value = rewriter.create("aten.embedding", weight, value).result
        elif not site.shape.kernel:
            value = rewriter.create("aten.linear", value, weight, added).result
        else:
            value = _convolution(rewriter, site, value, weight, factor, added)
    return value


def _convolution(
    rewriter: Rewriter, site: Site, value: Value, weight: Value, factor: Factor, bias: Value | None
) -> Value:
    rank, geometry = len(site.shape.kernel), _restricted(site.geometry, factor.axes, len(site.shape.kernel))
    common: dict[str, Any] = {"stride": geometry.stride, "padding": geometry.padding, "dilation": geometry.dilation}
    if factor.transposed:
        name = f"aten.conv_transpose{rank}d" + ("" if rank == 1 else ".input")
        extra: dict[str, Any] = {"output_padding": geometry.output_padding, "groups": factor.groups}
        return rewriter.create(name, value, weight, bias, **common, **extra).result
    return rewriter.create(f"aten.conv{rank}d", value, weight, bias, **common, groups=factor.groups).result


def _restricted(geometry: Geometry, axes: Sequence[int], rank: int) -> Geometry:
    """What a factor does: the layer's stride, padding and dilation along its axes, nothing along others."""

    def of(values: tuple[int, ...], otherwise: int) -> tuple[int, ...]:
        return tuple(values[axis] if axis in axes else otherwise for axis in range(rank))

    return Geometry(
        of(geometry.stride, 1), of(geometry.padding, 0), of(geometry.dilation, 1), of(geometry.output_padding, 0)
    )


def _factor(site: Site, index: int, factor: Factor, rewriter: Rewriter) -> Value:
    weight = site.layer.weight
    constant, type_ = weight.constant, weight.type
    assert constant is not None and isinstance(type_, TensorType)
    names = tuple(factor_name(name, index) for name in constant.names)
    tensor = factor.weight.t() if site.shape.kind == "embedding" and not index else factor.weight
    return rewriter.constant(
        tensor.to(constant.tensor.dtype).contiguous(),
        names[0] if names else f"{weight.name}_factor_{index}",
        constant.kind if names else ConstantKind.CONSTANT,
        names=names,
        requires_grad=constant.requires_grad and bool(names),
        device=type_.device,
    )


def factor_name(name: str, index: int) -> str:
    """What a factor of a parameter goes by.

    >>> factor_name("fc1.weight", 0), factor_name("table", 1)
    ('fc1.factor_0.weight', 'table.factor_1')
    """
    stem, dot, last = name.rpartition(".")
    return f"{stem}.factor_{index}.weight" if dot and last == "weight" else f"{name}.factor_{index}"


def _shifted(site: Site, bias: Value | None, shift: torch.Tensor, rewriter: Rewriter) -> Value:
    weight = site.layer.weight.constant
    assert weight is not None
    if bias is not None:
        old = bias.constant
        assert old is not None
        return rewriter.constant_like(bias, (old.tensor.detach().double() + shift).to(old.tensor.dtype))
    names = _bias_names(weight)
    return rewriter.constant(
        shift.to(weight.tensor.dtype),
        names[0] if names else f"{site.layer.weight.name}_bias",
        weight.kind if names else ConstantKind.CONSTANT,
        names=names,
        requires_grad=weight.requires_grad and bool(names),
        device=site.layer.weight.type.device,  # type: ignore[union-attr]
    )


def _bias_names(weight: Constant) -> tuple[str, ...]:
    """A layer without bias gets one under the name that its module would give it."""
    if len(weight.names) != 1 or not weight.names[0].endswith(".weight"):
        return ()
    return (weight.names[0].removesuffix("weight") + "bias",)
