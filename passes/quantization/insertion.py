"""Writing pairs, quantized weights and integer biases into a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, Value
from graphopt.ops.quantization import Format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.quantization.placement import Placement, weight_of
from graphopt.passes.quantization.profiles import Fusion, Profile
from graphopt.passes.quantization.weights import least_scales, weight_scales
from graphopt.passes.support.constants import drop_unused
from graphopt.rewrite import Rewriter

Rounding = Callable[[Value, torch.Tensor, "int | None", Format], "torch.Tensor | None"]


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of an activation: one, or as many as it has indices along `axis`, counted from the end."""

    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...]
    axis: int | None = None

    def tensors(self, format_: Format) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and zero points as they are stored."""
        return torch.tensor(self.scale, dtype=torch.float32), torch.tensor(self.zero_point, dtype=format_.storage)

    def covered(self, format_: Format) -> tuple[float, float]:
        """The least and the greatest number that the format stands for, in some channel."""
        scale, zero = (x.double() for x in self.tensors(format_))
        return float(((format_.low - zero) * scale).amin()), float(((format_.high - zero) * scale).amax())

    def rounded(self, x: torch.Tensor, format_: Format) -> torch.Tensor:
        """What the quantized numbers stand for."""
        scale, zero = self.tensors(format_)
        axis = None if self.axis is None else self.axis + x.dim()
        return dequantized(quantized(x, scale, zero, format_, axis, 0), scale, zero, axis, 0)


@dataclass(frozen=True)
class WeightOptions:
    """format_: of weights. per_channel: a scale for each output channel. search: by least squared error.

    rounding: gives integers for a weight, its scales, their axis and the format; None rounds to the nearest.
    """

    format_: Format
    per_channel: bool
    search: bool
    rounding: Rounding | None = None


@dataclass(frozen=True)
class Layer:
    """A layer whose weight is quantized.

    name: of its weight. node: what gives its result. source: the dequantized activation that it reads. bias: which
    operand is its bias, or None. scales: of the bias as integers, or None where it stays a float.
    """

    name: str
    node: Node
    source: Value
    bias: int | None
    scales: torch.Tensor | None


class Inserter:
    """Applies a placement. name: of the pass, for the provenance of what is made."""

    def __init__(self, graph: Graph, rewriter: Rewriter, profile: Profile, format_: Format, name: str) -> None:
        self.graph = graph
        self.rewriter = rewriter
        self.profile = profile
        self.format_ = format_
        self.name = name
        self._own: set[tuple[Node, int]] = set()
        self._stored: dict[Parameters, tuple[Value, Value]] = {}
        self._weights: dict[tuple[Value, int | None], tuple[torch.Tensor, Value, Value]] = {}

    def pairs(self, plan: Placement, parameters: Mapping[Value, Parameters]) -> None:
        """Put a pair behind each value of the plan; all its readers read the dequantized one."""
        self._own = {
            (node, operand_index(node, name))
            for node, fusion in plan.layers.items()
            for name in (fusion.weight, fusion.bias)
            if name
        }
        following = dict(zip(self.graph, [*list(self.graph)[1:], self.graph.terminator]))
        first = next(iter(self.graph), self.graph.terminator)
        for value in plan.pairs:
            anchor = following[value.producer] if value.producer is not None else first
            with self.rewriter.at(anchor, self.name):
                self._pair(value, parameters[plan.scale_of(value)])

    def _pair(self, value: Value, given: Parameters) -> None:
        scale, zero = self._parameters(given)
        how = self.format_.name, axis_of(value, given)
        q = self.rewriter.create("graphopt.quantize", value, scale, zero, *how, name=f"{value.name}_quantized")
        dq = self.rewriter.create("graphopt.dequantize", q.result, scale, zero, *how, name=f"{value.name}_dequantized")
        self._redirect(value, q, dq.result)

    def _redirect(self, value: Value, made: Node, new: Value) -> None:
        """Let what reads a value read `new`, but for `made`, and for layers of which it is the weight or bias."""
        if value.constant is None:
            self.rewriter.replace_value(value, new)
            self.rewriter.set_operand(made, 0, value)
            return
        for use in value.uses:
            if use.node is not made and (use.node, use.index) not in self._own:
                self.rewriter.set_operand(use.node, use.index, new)

    def _parameters(self, given: Parameters) -> tuple[Value, Value]:
        found = self._stored.get(given)
        if found is None:
            scales, zeros = given.tensors(self.format_)
            zero = self.rewriter.constant(zeros, "zero_point", dtype=self.format_.dtype)
            found = self._stored[given] = self._scale(scales, "scale"), zero
        return found

    def _scale(self, scale: torch.Tensor, name: str) -> Value:
        return self.rewriter.constant(scale, name)

    def weight(self, node: Node, fusion: Fusion, read: Parameters, options: WeightOptions) -> Layer:
        """Quantize the weight of a layer; return what is the layer now. read: of what it reads."""
        weight = weight_of(node, fusion)
        assert weight is not None and weight.constant is not None
        axis = fusion.axis(len(weight.shape), options.per_channel)
        tensor = weight.constant.tensor.detach()
        source = node.arguments()[fusion.inputs[0]]
        bias = stored(node.arguments().get(fusion.bias))
        split = self.profile.split_linear and node.name == "aten.linear" and len(node.operands[0].shape) != 2  # type: ignore[union-attr]
        integer_bias = self.profile.integer_bias and bool(fusion.bias) and not split
        input_scale = _by_output(read, tensor.shape[axis or 0])
        smallest = least_scales(bias, input_scale) if integer_bias and bias is not None else None
        if smallest is not None and axis is None:
            smallest = smallest.amax()
        scales = weight_scales(tensor, options.format_, axis, options.search, smallest)
        q = options.rounding(weight, scales, axis, options.format_) if options.rounding is not None else None
        q = quantized(tensor, scales, None, options.format_, axis, 0) if q is None else q
        with self.rewriter.at(node, self.name):
            if split:
                last = self._split(node, weight, q, scales, axis, options.format_)
                return Layer(weight.name, last, source, None if bias is None else 1, None)
            made = self._stored_weight(weight, q, scales, axis, options.format_)
            self.rewriter.set_operand(node, operand_index(node, fusion.weight), made)
        drop_unused(self.rewriter, weight)
        products = input_scale * scales if integer_bias else None
        return Layer(weight.name, node, source, operand_index(node, fusion.bias) if fusion.bias else None, products)

    def bias(self, layer: Layer, shift: torch.Tensor | None) -> None:
        """Move the bias of a layer, and store it as integers if the target wants it so."""
        if layer.bias is None or (shift is None and layer.scales is None):
            return
        old = layer.node.operands[layer.bias]
        tensor = stored(old)
        if tensor is None and (old is not None or shift is None):
            return
        moved = torch.zeros(()) if tensor is None else tensor
        if shift is not None:
            moved = (moved.double() + shift).float()
        name = old.name if old is not None else f"{layer.node.result.name}_bias"
        with self.rewriter.at(layer.node, self.name):
            if layer.scales is None:
                new = self.rewriter.constant(moved, name)
            else:
                new = integer_bias(self.rewriter, moved, layer.scales, name)
            self.rewriter.set_operand(layer.node, layer.bias, new)
        drop_unused(self.rewriter, old)

    def _stored_weight(
        self, weight: Value, q: torch.Tensor, scales: torch.Tensor, axis: int | None, format_: Format
    ) -> Value:
        """Dequantize the stored weight; layers that read one weight read it stored once."""
        format_ = self.profile.stored(format_)
        known = self._weights.get((weight, axis))
        if known is not None and torch.equal(known[0], scales):
            stored, scale = known[1:]
        else:
            stored = self.rewriter.constant(q.to(format_.storage), f"{weight.name}_quantized", dtype=format_.dtype)
            scale = self.rewriter.constant(scales, f"{weight.name}_scale")
            self._weights[weight, axis] = scales, stored, scale
        return self.rewriter.create(
            "graphopt.dequantize", stored, scale, None, format_.name, axis, name=f"{weight.name}_dequantized"
        ).result

    def _split(
        self, node: Node, weight: Value, q: torch.Tensor, scales: torch.Tensor, axis: int | None, format_: Format
    ) -> Node:
        """x W^T + b as a product with the transposed weight, and a sum."""
        read = self._stored_weight(weight, q.t().contiguous(), scales, None if axis is None else 1, format_)
        bias = node.arguments()["bias"]
        product = self.rewriter.create("aten.matmul", node.operands[0], read, name=node.result.name)
        last = product if bias is None else self.rewriter.create("aten.add.Tensor", product.result, bias)
        self.rewriter.replace(node, last.results)
        drop_unused(self.rewriter, weight)
        return last


def _by_output(read: Parameters, outputs: int) -> torch.Tensor:
    """The scale of what a layer reads; for each output where inputs have their own, as many outputs for each input."""
    scale = torch.tensor(read.scale, dtype=torch.float32)
    return scale.repeat_interleave(outputs // len(scale)) if scale.dim() else scale


def axis_of(value: Value, given: Parameters) -> int | None:
    """The axis of a value along which its parameters lie."""
    return None if given.axis is None else given.axis + len(value.shape)


def stored(value: object) -> torch.Tensor | None:
    """The tensor of an operand that is stored."""
    if not isinstance(value, Value) or value.constant is None:
        return None
    return value.constant.tensor.detach().float()


def operand_index(node: Node, name: str) -> int:
    """Which operand a parameter is."""
    return [p.name for p in node.op.operand_params].index(name)


def integer_bias(rewriter: Rewriter, bias: torch.Tensor, scales: torch.Tensor, name: str) -> Value:
    """b_q = round(b / s), s = s_x s_w in single precision, as the runtime computes it; and dequantized again."""
    q = torch.round(bias.double() / scales.double()).clamp(-(2.0**31), 2.0**31 - 1).to(torch.int32)
    integers = rewriter.constant(q, f"{name}_quantized", dtype=DType.I32)
    scale = rewriter.constant(scales, f"{name}_scale")
    axis = 0 if scales.dim() else None
    return rewriter.create(
        "graphopt.dequantize", integers, scale, None, "int32", axis, name=f"{name}_dequantized"
    ).result
