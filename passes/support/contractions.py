"""Convolutions, transposed convolutions and linear layers as one thing: y[o] = Σᵢ W[o, i] · x[i] + b[o].

Scaling output o, or input i, scales a slice of the weight. Where the slices are depends on the operator and its groups:

    linear            W: [out, in]                    inputs and outputs are the last axis
    conv              W: [out, in / groups, k…]       output o reads the inputs of its group
    conv_transpose    W: [in, out / groups, k…]       input i feeds the outputs of its group
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphopt.ir import Constant, ConstantKind, Node, TensorType, Value
from graphopt.passes.support.blocks import row_sums, scaled
from graphopt.passes.support.evaluation import stored_tensor
from graphopt.rewrite import Rewriter
from graphopt.rewrite.pattern import Surroundings

_CONVS = {"aten.conv1d": 1, "aten.conv2d": 2, "aten.conv3d": 3}
_TRANSPOSED = {"aten.conv_transpose1d": 1, "aten.conv_transpose2d": 2, "aten.conv_transpose3d": 3}
CONTRACTIONS = frozenset({*_CONVS, *_TRANSPOSED, "aten.convolution", "aten.linear"})


@dataclass(frozen=True)
class Contraction:
    """A convolution or linear node with a stored weight.

    spatial: the number of spatial axes (0 for linear). groups: of a convolution. transposed: whether it is one.
    """

    node: Node
    weight: Value
    bias: Value | None
    spatial: int
    groups: int
    transposed: bool

    @property
    def is_linear(self) -> bool:
        """True for `linear`."""
        return self.node.op.base == "aten.linear"

    @property
    def out_channels(self) -> int:
        """The number of outputs."""
        shape = self.weight.shape
        return int(shape[1] * self.groups if self.transposed else shape[0])

    @property
    def in_channels(self) -> int:
        """The number of inputs."""
        shape = self.weight.shape
        return int(shape[0] if self.transposed else shape[1] * self.groups)

    def channel_axis(self, value: Value) -> int:
        """The axis of channels of the input or the result."""
        assert isinstance(value.type, TensorType)
        return value.type.rank - 1 - self.spatial

    @property
    def pads(self) -> bool:
        """True if the result also depends on zeros around the input, or may."""
        padding = self.node.attributes.get("padding", 0)
        if isinstance(padding, str):
            return padding != "valid"
        return not (padding == 0 or (isinstance(padding, tuple) and all(p == 0 for p in padding)))

    def scaled_outputs(self, scale: torch.Tensor) -> torch.Tensor | None:
        """The weight with output o times scale[o], rounded once; None if that is not finite."""
        factors = self._by_second_axis(scale) if self.transposed else _column(scale, self.spatial + 2)
        return scaled(stored_tensor(self.weight), factors)

    def scaled_inputs(self, scale: torch.Tensor) -> torch.Tensor | None:
        """The weight with input i times scale[i], rounded once; None if that is not finite."""
        return scaled(stored_tensor(self.weight), self._input_factors(scale))

    def response(self, shift: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """What the constant input x[i] = shift[i], without padding, gives at each output, in double precision. Not for
        transposed ones. weight: the numbers of a weight that is not stored as it is."""
        return row_sums(stored_tensor(self.weight) if weight is None else weight, self._input_factors(shift))

    def _input_factors(self, scale: torch.Tensor) -> torch.Tensor:
        return _column(scale, self.spatial + 2) if self.transposed else self._by_second_axis(scale)

    def _by_second_axis(self, scale: torch.Tensor) -> torch.Tensor:
        """Factors of the weight's second axis, whose channels differ from group to group of the first."""
        per_group = int(self.weight.shape[0]) // self.groups
        rows = scale.reshape(self.groups, -1)
        rows = rows if self.groups == 1 else rows.repeat_interleave(per_group, 0)
        return rows.reshape(*rows.shape, *([1] * self.spatial))

    def bias_tensor(self) -> torch.Tensor:
        """The bias in double precision; zeros if there is none."""
        if self.bias is not None:
            return stored_tensor(self.bias).double()
        weight = stored_tensor(self.weight)
        return torch.zeros(self.out_channels, dtype=torch.float64, device=weight.device)

    def rebuilt(
        self, source: Value, weight: torch.Tensor | None, bias: torch.Tensor | None, rewriter: Rewriter
    ) -> Value | str:
        """The node with another input, weight and bias (None keeps the old one). The bias is rounded to its dtype.

        Returns why it cannot be, if the new bias overflows the dtype.
        """
        new_weight, new_bias = self.weight, self.bias
        if weight is not None:
            new_weight = rewriter.constant_like(self.weight, weight)
        if bias is not None:
            rounded = _rounded(bias, self.bias or self.weight)
            if rounded is None:
                return "the folded bias would not be finite"
            new_bias = self._stored_bias(rounded, rewriter)
        return rewriter.rebuild(self.node, (source, new_weight, new_bias)).result

    def _stored_bias(self, tensor: torch.Tensor, rewriter: Rewriter) -> Value:
        if self.bias is not None:
            return rewriter.constant_like(self.bias, tensor)
        constant, type_ = self.weight.constant, self.weight.type
        assert constant is not None and isinstance(type_, TensorType)
        name = self.weight.name.removesuffix("weight") + "bias" if self.weight.name.endswith("weight") else "bias"
        names = _bias_names(constant)
        kind = constant.kind if names else ConstantKind.CONSTANT
        return rewriter.constant(tensor, name, kind, names=names, device=type_.device)


def _bias_names(weight: Constant) -> tuple[str, ...]:
    """A layer without bias gets one under the name that its module would give it."""
    if weight.kind is ConstantKind.CONSTANT or len(weight.names) != 1 or not weight.names[0].endswith(".weight"):
        return ()
    return (weight.names[0].removesuffix("weight") + "bias",)


def contraction(node: Node, surroundings: Surroundings) -> Contraction | str:
    """Describe a node, or say why its weights cannot be rewritten."""
    if len(node._operands) < 2 or node.op.base not in CONTRACTIONS:
        return f"{node.op.name} has no weight"
    weight = node._operands[1]
    bias = node._operands[2] if len(node._operands) > 2 else None
    if weight is None or not surroundings.is_fixed(weight) or not (bias is None or surroundings.is_fixed(bias)):
        return "the weight or bias is no fixed constant"
    assert isinstance(weight.type, TensorType)
    if not weight.type.dtype.is_floating or (node.op.base == "aten.linear" and weight.type.rank != 2):
        return "the weight is no floating-point matrix"
    base, attributes = node.op.base, node.attributes
    spatial = 0 if base == "aten.linear" else weight.type.rank - 2
    transposed = base in _TRANSPOSED or bool(attributes.get("transposed", False))
    return Contraction(node, weight, bias, spatial, attributes.get("groups", 1), transposed)


def _column(scale: torch.Tensor, rank: int) -> torch.Tensor:
    return scale.reshape(-1, *([1] * (rank - 1)))


def _rounded(tensor: torch.Tensor, like: Value) -> torch.Tensor | None:
    assert isinstance(like.type, TensorType)
    rounded = tensor.to(like.type.dtype.torch)
    return rounded if bool(rounded.isfinite().all()) else None
