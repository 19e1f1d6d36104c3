"""What may have a format of its own, what it then is rounded to and what it costs, under either way of quantizing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from graphopt.analysis import CostModel, bind_sizes
from graphopt.ir import Graph, Node, Value
from graphopt.ops.quantization import Format, find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.quantization.blocks import block_parameters, in_half_precision
from graphopt.passes.quantization.clipping import affine
from graphopt.passes.quantization.insertion import Parameters
from graphopt.passes.quantization.layer_formats import FLOAT, LayerFormats, graph_names, node_names
from graphopt.passes.quantization.placement import activations_of, place, weight_of
from graphopt.passes.quantization.profiles import Profile
from graphopt.passes.quantization.weights import weight_scales
from graphopt.passes.quantize import Quantize
from graphopt.passes.quantize_weights import QuantizeWeights

SCALE_BYTES = 4
FLOAT_BITS = 32


@dataclass(frozen=True)
class Candidate:
    """A stored weight and the layers that read it. sources: the operand of each that is its activation.

    macs: the multiply-adds of the layers together, at the samples' sizes.
    """

    weight: Value
    nodes: tuple[Node, ...]
    sources: tuple[int, ...]
    macs: int

    @property
    def name(self) -> str:
        """That of the weight."""
        return self.weight.name

    @property
    def tensor(self) -> torch.Tensor:
        """The weight in floating point."""
        assert self.weight.constant is not None
        return self.weight.constant.tensor.detach()


class Scheme(Protocol):
    """A way of quantizing."""

    @property
    def candidates(self) -> Sequence[Candidate]:
        """In graph order."""

    @property
    def activation_format(self) -> Format | None:
        """That of what integer layers read; None where it stays a float."""

    def rounded(self, candidate: Candidate, format_: Format) -> torch.Tensor:
        """The weight as it is after rounding to the nearest, in its own shape."""

    def activation(self, found: Sequence[torch.Tensor]) -> Parameters | None:
        """How activations are rounded that were seen like this; None where they stay floats."""

    def bytes(self, candidate: Candidate, format_: Format) -> float:
        """What the weight takes with its scales."""

    def quantizer(self, formats: Mapping[str, str], floats: Sequence[str] = ()) -> Quantize | QuantizeWeights:
        """The pass that gives weights these formats. floats: further operators that are to stay in floating point."""


class Static:
    """As `quantize` does it, for a target's profile."""

    def __init__(self, inner: Quantize, graph: Graph, profile: Profile, inputs: Sequence[Any]) -> None:
        self.inner = inner
        self.profile = profile
        self.activation_format, self.symmetric = inner.activation_format(profile)
        formats = LayerFormats(inner.dtype, inner.formats, inner.ignore, graph_names(graph), inner.name)
        self.plan = place(graph, profile, lambda node: formats.why_float(node_names(node)))
        layers: dict[Value, list[Node]] = {}
        for node, fusion in self.plan.layers.items():
            weight = weight_of(node, fusion)
            assert weight is not None
            layers.setdefault(weight, []).append(node)
        costs = CostModel(bind_sizes(graph.inputs, inputs))
        self.candidates = [
            Candidate(
                weight, tuple(nodes), tuple(map(self._source, nodes)), sum(costs.node(node).macs for node in nodes)
            )
            for weight, nodes in layers.items()
        ]

    def _source(self, node: Node) -> int:
        (activation,) = activations_of(node, self.plan.layers[node], True)
        return node.operands.index(activation)

    def rounded(self, candidate: Candidate, format_: Format) -> torch.Tensor:
        axis = self._axis(candidate)
        scales = weight_scales(candidate.tensor, format_, axis, self.inner.weights == "mse")
        return dequantized(quantized(candidate.tensor, scales, None, format_, axis, 0), scales, None, axis, 0)

    def activation(self, found: Sequence[torch.Tensor]) -> Parameters | None:
        low, high = (float(f(torch.stack([f(x) for x in found]))) for f in (torch.amin, torch.amax))
        return Parameters(*affine(low, high, self.activation_format, self.symmetric))

    def bytes(self, candidate: Candidate, format_: Format) -> float:
        axis, tensor = self._axis(candidate), candidate.tensor
        scales = 1 if axis is None else tensor.shape[axis]
        return tensor.numel() * self.profile.stored(format_).bits / 8 + scales * SCALE_BYTES

    def _axis(self, candidate: Candidate) -> int | None:
        fusion = self.plan.layers[candidate.nodes[0]]
        return fusion.axis(candidate.tensor.dim(), self.inner.granularity == "channel")

    def quantizer(self, formats: Mapping[str, str], floats: Sequence[str] = ()) -> Quantize:
        return replace(
            self.inner,
            formats={**_exact(formats), **self.inner.formats},
            ignore=(*self.inner.ignore, *map(_glob, floats)),
        )


class WeightOnly:
    """As `quantize-weights` does it."""

    activation_format: None = None

    def __init__(self, inner: QuantizeWeights, graph: Graph, inputs: Sequence[Any]) -> None:
        self.inner = inner
        products, tables, _ = inner.chosen(graph)
        costs = CostModel(bind_sizes(graph.inputs, inputs))
        readers: dict[Value, list[tuple[Node, int, int]]] = {}
        self._turned = {product.weight: product.transposed for product in products}
        for product in products:
            readers.setdefault(product.weight, []).append((product.node, product.left, costs.node(product.node).macs))
        self._tables = {table.weight for table in tables}
        for table in tables:
            self._turned[table.weight] = True
            readers[table.weight] = [(node, 1, 0) for node in table.nodes]
        self.candidates = []
        for weight, found in readers.items():
            nodes, sources, macs = zip(*found)
            self.candidates.append(Candidate(weight, nodes, sources, sum(macs)))

    def rounded(self, candidate: Candidate, format_: Format) -> torch.Tensor:
        turned = self._turned[candidate.weight]
        matrix = self._matrix(candidate)
        axis = 0 if self.inner.block_size else 1
        scales, zeros, _ = self._parameters(candidate, format_)
        points = None if zeros is None else zeros.to(format_.storage)
        q = quantized(matrix, scales, points, format_, axis, self.inner.block_size)
        found = dequantized(q, scales, points, axis, self.inner.block_size)
        return found.t() if turned else found

    def _matrix(self, candidate: Candidate) -> torch.Tensor:
        return candidate.tensor.t() if self._turned[candidate.weight] else candidate.tensor

    def _parameters(self, candidate: Candidate, format_: Format) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """Scales as they are read, zero points, and the bytes of a scale as it is stored."""
        matrix = self._matrix(candidate)
        scales, zeros = block_parameters(matrix, format_, self.inner.block_size, self.inner.search)
        halves = self.inner.half_scales or candidate.weight in self._tables
        half = in_half_precision(scales) if halves else None
        return (scales, zeros, SCALE_BYTES) if half is None else (half.float(), zeros, half.element_size())

    def activation(self, found: Sequence[torch.Tensor]) -> Parameters | None:
        return None

    def bytes(self, candidate: Candidate, format_: Format) -> float:
        scales, zeros, scale_bytes = self._parameters(candidate, format_)
        zero = 0.0 if zeros is None else format_.bits / 8
        return candidate.tensor.numel() * format_.bits / 8 + scales.numel() * (scale_bytes + zero)

    def quantizer(self, formats: Mapping[str, str], floats: Sequence[str] = ()) -> QuantizeWeights:
        return replace(self.inner, formats={**_exact(formats), **self.inner.formats})


def bit_operations(candidate: Candidate, format_: str, activations: Format | None) -> int:
    """Multiply-adds times the bits of weight and of activation."""
    if format_ == FLOAT:
        return candidate.macs * FLOAT_BITS**2
    return candidate.macs * find_format(format_).bits * (FLOAT_BITS if activations is None else activations.bits)


def _exact(formats: Mapping[str, str]) -> dict[str, str]:
    return {_glob(name): format_ for name, format_ in formats.items()}


def _glob(name: str) -> str:
    """A glob that fits a name alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
