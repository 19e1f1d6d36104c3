"""Writing quantization so that it trains: fake quantization of activations and of weights, which stay parameters.

Scales are parameters too, and learn by the derivative of learned step size quantization. Biases stay floats.
"""

from __future__ import annotations

import torch

from graphopt.ir import ConstantKind, Node, Value
from graphopt.passes.quantization.insertion import (
    Inserter,
    Layer,
    Parameters,
    WeightOptions,
    axis_of,
    operand_index,
    stored,
)
from graphopt.passes.quantization.placement import weight_of
from graphopt.passes.quantization.profiles import Fusion
from graphopt.passes.quantization.weights import weight_scales
from graphopt.passes.support.constants import drop_unused


class TrainableInserter(Inserter):
    """Applies a placement by fake quantization."""

    def _pair(self, value: Value, given: Parameters) -> None:
        scale, zero = self._parameters(given)
        how = self.format_.name, axis_of(value, given)
        node = self.rewriter.create("graphopt.fake_quantize", value, scale, zero, *how, name=f"{value.name}_rounded")
        self._redirect(value, node, node.result)

    def _scale(self, scale: torch.Tensor, name: str) -> Value:
        return self.rewriter.constant(scale, name, ConstantKind.PARAMETER, names=(name,), requires_grad=True)

    def weight(self, node: Node, fusion: Fusion, read: Parameters, options: WeightOptions) -> Layer:
        """Round the weight of a layer where it is read."""
        weight = weight_of(node, fusion)
        assert weight is not None and weight.constant is not None
        axis = fusion.axis(len(weight.shape), options.per_channel)
        scales = weight_scales(weight.constant.tensor, options.format_, axis, options.search)
        names = weight.constant.names
        scale = self._scale(scales, f"{names[0] if names else weight.name}_scale")
        with self.rewriter.at(node, self.name):
            rounded = self.rewriter.create(
                "graphopt.fake_quantize", weight, scale, None, options.format_.name, axis, name=f"{weight.name}_rounded"
            ).result
        source = node.arguments()[fusion.inputs[0]]
        self.rewriter.set_operand(node, operand_index(node, fusion.weight), rounded)
        return Layer(weight.name, node, source, operand_index(node, fusion.bias) if fusion.bias else None, None)

    def bias(self, layer: Layer, shift: torch.Tensor | None) -> None:
        """Move the bias of a layer."""
        old = None if layer.bias is None else layer.node.operands[layer.bias]
        tensor = stored(old)
        if layer.bias is None or old is None or tensor is None or shift is None:
            return
        moved = self.rewriter.constant_like(old, (tensor.double() + shift).to(tensor.dtype))
        self.rewriter.set_operand(layer.node, layer.bias, moved)
        drop_unused(self.rewriter, old)
