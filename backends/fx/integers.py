"""Integer kernels in the place of layers on dequantized numbers, for inference.

Q(clip(f(D(x), D(W), b)))  →  integer_linear or integer_conv
Q(m(D(x)))                 →  m(x), where m moves elements, and Q has the scale of D
"""

from __future__ import annotations

from typing import Any

from graphopt.analysis.integer_layers import IntegerLayer, affine_of, integer_layer
from graphopt.ir import Graph, Node, Trait, Value
from graphopt.rewrite import Rewriter

MOVES = frozenset(
    f"aten.{name}"
    for name in (
        *("reshape", "view", "flatten.using_ints", "permute", "transpose.int", "t", "squeeze", "cat"),
        *("squeeze.dim", "unsqueeze", "slice.Tensor", "select.int", "expand", "contiguous"),
    )
)
"""What moves elements of bytes as of floats. Not `max_pool2d`: of bytes it counts positions in bytes, too."""

_FROM, _TO = "graphopt.dequantize", "graphopt.quantize"


def on_integers(graph: Graph) -> Graph:
    """Return a graph in which integer kernels compute what they can; `graph` itself if there is nothing for them."""
    if not any(node.name == _FROM for node in graph):
        return graph
    copy = graph.clone()
    rewriter = Rewriter(copy)
    for node in list(copy):
        layer = integer_layer(node)
        if isinstance(layer, IntegerLayer):
            _lower(layer, rewriter)
    for node in list(copy):
        if node.name == _TO:
            _move(node, rewriter)
    if not rewriter.changed:
        return graph
    _drop_dead(copy, rewriter)
    _reshape_views(copy, rewriter)
    return copy


def _lower(layer: IntegerLayer, rewriter: Rewriter) -> None:
    """One kernel for a layer, and what stands between it and its result."""
    assert layer.weight.constant is not None
    with rewriter.at(layer.last, "integer-kernels"):
        weight = layer.weight
        if layer.transposed:
            weight = rewriter.constant(layer.weight.constant.tensor.t().contiguous(), f"{weight.name}_transposed")
        bias = None if layer.bias is None else rewriter.constant(layer.bias, f"{layer.node.result.name}_bias")
        options: dict[str, Any] = {"scale": layer.source.scale, "zero_point": layer.source.zero_point}
        options |= {"low": layer.low, "high": layer.high}
        if layer.result is not None:
            options["output_dtype"] = layer.result.format
            options["output_scale"] = layer.result.scale
            options["output_zero_point"] = layer.result.zero_point
        name = "graphopt.integer_linear"
        if layer.window is not None:
            name = "graphopt.integer_conv"
            options |= dict(zip(("stride", "padding", "dilation", "groups"), layer.window))
        made = rewriter.create(name, layer.x, weight, layer.weight_scale, bias, **options, name=layer.last.result.name)
    rewriter.replace(layer.last, made.results)


def _move(quantize: Node, rewriter: Rewriter) -> None:
    """Move integers instead of what they stand for."""
    floats, wanted = quantize.operands[0], affine_of(quantize, _TO)
    node = floats.producer if floats is not None else None
    if node is None or node.name not in MOVES or node.result.num_uses != 1 or wanted is None:
        return
    read = [value.producer for value in node.operands if value is not None]
    if any(affine_of(producer, _FROM) != wanted for producer in read):
        return
    integers: list[Value | None] = [None if p is None else p.operands[0] for p in read]
    with rewriter.at(node, "integer-kernels"):
        moved = rewriter.rebuild(node, integers)
    rewriter.replace(quantize, moved.results)


def _drop_dead(graph: Graph, rewriter: Rewriter) -> None:
    for node in reversed(list(graph)):
        if node.op.has(Trait.PURE) and not any(result.num_uses for result in node.results):
            rewriter.erase(node)
    for value in list(graph.constants.values()):
        if value.constant is not None and not value.constant.names and not value.num_uses:
            rewriter.drop_constant(value)


def _reshape_views(graph: Graph, rewriter: Rewriter) -> None:
    """Kernels of convolutions give channels last, which a view may not read."""
    if not any(node.name == "graphopt.integer_conv" for node in graph):
        return
    for node in list(graph):
        if node.name == "aten.view":
            with rewriter.at(node, "integer-kernels"):
                rewriter.replace(node, rewriter.create("aten.reshape", node.operands[0], node.attr("size")).results)
