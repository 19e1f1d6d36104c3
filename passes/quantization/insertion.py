"""Writing pairs, quantized weights and integer biases into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graphopt.ir import DType, Graph, Node, Value
from graphopt.ops.quantization import Format
from graphopt.ops.quantization.arithmetic import quantized
from graphopt.passes.quantization.placement import Placement, weight_of
from graphopt.passes.quantization.profiles import Fusion, Profile
from graphopt.passes.quantization.weights import least_scales, weight_scales
from graphopt.passes.support.constants import drop_unused
from graphopt.rewrite import Rewriter


@dataclass(frozen=True)
class Parameters:
    """Scale and zero point of an activation."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class WeightOptions:
    """format_: of weights. per_channel: a scale for each output channel. search: by least squared error."""

    format_: Format
    per_channel: bool
    search: bool


class Inserter:
    """Applies a placement. name: of the pass, for the provenance of what is made."""

    def __init__(self, graph: Graph, rewriter: Rewriter, profile: Profile, format_: Format, name: str) -> None:
        self.graph = graph
        self.rewriter = rewriter
        self.profile = profile
        self.format_ = format_
        self.name = name
        self._stored: dict[tuple[float, int], tuple[Value, Value]] = {}

    def pairs(self, plan: Placement, parameters: Mapping[Value, Parameters]) -> None:
        """Put a pair behind each value of the plan; all its readers read the dequantized one."""
        following = dict(zip(self.graph, [*list(self.graph)[1:], self.graph.terminator]))
        first = next(iter(self.graph), self.graph.terminator)
        for value in plan.pairs:
            anchor = following[value.producer] if value.producer is not None else first
            with self.rewriter.at(anchor, self.name):
                self._pair(value, parameters[plan.scale_of(value)])

    def _pair(self, value: Value, given: Parameters) -> None:
        scale, zero = self._parameters(given)
        q = self.rewriter.create(
            "graphopt.quantize", value, scale, zero, self.format_.name, name=f"{value.name}_quantized"
        )
        dq = self.rewriter.create(
            "graphopt.dequantize", q.result, scale, zero, self.format_.name, name=f"{value.name}_dequantized"
        )
        self.rewriter.replace_value(value, dq.result)
        self.rewriter.set_operand(q, 0, value)

    def _parameters(self, given: Parameters) -> tuple[Value, Value]:
        key = (given.scale, given.zero_point)
        found = self._stored.get(key)
        if found is None:
            scale = self.rewriter.constant(torch.tensor(given.scale, dtype=torch.float32), "scale")
            zero = torch.tensor(given.zero_point, dtype=self.format_.storage)
            found = self._stored[key] = scale, self.rewriter.constant(zero, "zero_point", dtype=self.format_.dtype)
        return found

    def layer(self, node: Node, fusion: Fusion, input_scale: float, options: WeightOptions) -> Node:
        """Quantize the weight of a layer, and its bias if the profile wants it; return what is the layer now."""
        weight = weight_of(node, fusion)
        assert weight is not None and weight.constant is not None
        split = self.profile.split_linear and node.name == "aten.linear" and len(node.operands[0].shape) != 2  # type: ignore[union-attr]
        bias = node.arguments().get(fusion.bias)
        stored_bias = bias if isinstance(bias, Value) and bias.constant is not None else None
        integer_bias = self.profile.integer_bias and stored_bias is not None and not split
        axis = fusion.channels % len(weight.shape) if options.per_channel else None
        tensor = weight.constant.tensor.detach()
        smallest = None
        if integer_bias and stored_bias is not None and stored_bias.constant is not None:
            smallest = least_scales(stored_bias.constant.tensor, input_scale)
            smallest = smallest if axis is not None else smallest.amax()  # type: ignore[union-attr]
        scales = weight_scales(tensor, options.format_, axis, options.search, smallest)
        with self.rewriter.at(node, self.name):
            if split:
                return self._split(node, weight, scales, axis, options.format_)
            dequantized = self._stored_weight(weight, tensor, scales, axis, options.format_)
            self.rewriter.set_operand(node, _index(node, fusion.weight), dequantized)
            if integer_bias and stored_bias is not None:
                self.rewriter.set_operand(node, _index(node, fusion.bias), self._bias(stored_bias, input_scale, scales))
        drop_unused(self.rewriter, weight, stored_bias)
        return node

    def _stored_weight(
        self, weight: Value, tensor: torch.Tensor, scales: torch.Tensor, axis: int | None, format_: Format
    ) -> Value:
        q = quantized(tensor, scales, None, format_, axis, 0)
        stored = self.rewriter.constant(q, f"{weight.name}_quantized", dtype=format_.dtype)
        scale = self.rewriter.constant(scales, f"{weight.name}_scale")
        return self.rewriter.create(
            "graphopt.dequantize", stored, scale, None, format_.name, axis, name=f"{weight.name}_dequantized"
        ).result

    def _bias(self, bias: Value, input_scale: float, scales: torch.Tensor) -> Value:
        """b_q = round(b / s), s = s_x s_w in single precision, as the runtime computes it."""
        assert bias.constant is not None
        tensor = bias.constant.tensor.detach()
        products = torch.tensor(input_scale, dtype=torch.float32) * scales
        axis = 0 if products.dim() else None
        q = torch.round(tensor.double() / products.double()).to(torch.int32)
        stored = self.rewriter.constant(q, f"{bias.name}_quantized", dtype=DType.I32)
        scale = self.rewriter.constant(products, f"{bias.name}_scale")
        return self.rewriter.create(
            "graphopt.dequantize", stored, scale, None, "int32", axis, name=f"{bias.name}_dequantized"
        ).result

    def _split(self, node: Node, weight: Value, scales: torch.Tensor, axis: int | None, format_: Format) -> Node:
        """x W^T + b as a product with the transposed weight, and a sum."""
        assert weight.constant is not None
        transposed = weight.constant.tensor.detach().t().contiguous()
        dequantized = self._stored_weight(weight, transposed, scales, None if axis is None else 1, format_)
        bias = node.arguments()["bias"]
        product = self.rewriter.create("aten.matmul", node.operands[0], dequantized, name=node.result.name)
        last = product if bias is None else self.rewriter.create("aten.add.Tensor", product.result, bias)
        self.rewriter.replace(node, last.results)
        drop_unused(self.rewriter, weight)
        return product


def _index(node: Node, name: str) -> int:
    return [p.name for p in node.op.operand_params].index(name)
