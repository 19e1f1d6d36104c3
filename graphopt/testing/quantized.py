"""Random graphs on integers, as quantization writes them: every value is a pair of quantize and dequantize.

    x_q = Q(x),  and then again and again  y_q = Q(clip(f(D(a_q), D(b_q), D(W_q), D(bias_q))))

Every y_q is an output. Half of the graphs have powers of two as scales, so that ties in rounding occur. Output scales
are about three deviations of what integers that are spread evenly give, so that few saturate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from graphopt.ir import DType, Graph, Node, TensorType, Value
from graphopt.rewrite import Rewriter
from graphopt.targets.chip import get_chip
from graphopt.testing.source import Source

SPREAD = 73.0
"""The deviation of bytes that are spread evenly."""


@dataclass(frozen=True)
class Stage:
    """A quantized value. reads: how many steps it moves at most for one step of each stage that it reads."""

    operator: str
    reads: dict[int, float] = field(default_factory=dict)

    def allowed(self, differences: Sequence[int]) -> int:
        """By how many steps two engines may differ, by what they differ by in the stages before: by one of its own."""
        return 1 + math.ceil(sum(gain * differences[index] for index, gain in self.reads.items()))


@dataclass(frozen=True)
class QuantizedGraph:
    """graph: whose outputs are the stages, in order. scale: of its input."""

    graph: Graph
    stages: list[Stage]
    scale: float

    def inputs(self, seed: int) -> torch.Tensor:
        """Numbers for the input: half steps, so that ties occur."""
        shape = [int(d) for d in self.graph.inputs[0].shape]
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(-280, 280, shape, generator=generator) * (self.scale / 2)


@dataclass(frozen=True)
class _Quantized:
    """A dequantized value, its scale and zero point, and the stage that made it."""

    value: Value
    scale: float
    zero_point: int
    stage: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(d) for d in self.value.shape)


def draw_quantized(source: Source, stages: int = 5) -> QuantizedGraph:
    """Draw a graph of an image, with so many operators.

    >>> from graphopt.testing.source import RandomSource
    >>> len(draw_quantized(RandomSource(1)).stages)
    6
    """
    return _Drawer(source).drawn(stages)


class _Drawer:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.exact = source.choice((True, False))
        self.format = source.choice(("uint8", "int8"))
        self.bound = 63 if get_chip().saturates else 127
        self.generator = torch.Generator().manual_seed(source.integer(0, 9999))
        self.graph = Graph()
        self.rewriter = Rewriter(self.graph)
        self.pool: list[_Quantized] = []
        self.stages: list[Stage] = []
        self.outputs: list[Value] = []

    def drawn(self, count: int) -> QuantizedGraph:
        x = self.graph.add_input("x", TensorType(DType.F32, (2, 4, self.source.integer(4, 6), 4)))
        scale = self._scale(0.05)
        self._stage("quantize", x, scale, self._zero(), {})
        for _ in range(count):
            a = self.pool[-1 - self.source.integer(0, min(2, len(self.pool) - 1))]
            options = _BY_RANK[len(a.shape)]
            self.source.choice(options)(self, a)
        self.graph.set_outputs(self.outputs)
        return QuantizedGraph(self.graph, self.stages, scale)

    # Numbers

    def _scale(self, about: float) -> float:
        exponent = math.log2(about)
        return 2.0 ** round(exponent) if self.exact else 2.0 ** (exponent + self.source.integer(-4, 4) / 8)

    def _zero(self) -> int:
        low, high = (0, 255) if self.format == "uint8" else (-128, 127)
        return self.source.choice((low + 128, low, high, low + 100))

    def _random(self, shape: tuple[int, ...], bound: int) -> torch.Tensor:
        return torch.randint(-bound, bound + 1, shape, generator=self.generator)

    # Nodes

    def _create(self, name: str, *args: Any, **kwargs: Any) -> Node:
        return self.rewriter.create(name, *args, **kwargs)

    def _constant(self, tensor: torch.Tensor, dtype: DType | None = None) -> Value:
        return self.rewriter.constant(tensor, dtype=dtype)

    def _stage(self, operator: str, value: Value, scale: float, zero_point: int, reads: dict[int, float]) -> None:
        storage = torch.uint8 if self.format == "uint8" else torch.int8
        parameters = (
            self._constant(torch.tensor(scale, dtype=torch.float32)),
            self._constant(torch.tensor(zero_point, dtype=storage)),
        )
        q = self._create("graphopt.quantize", value, *parameters, self.format).result
        back = self._create("graphopt.dequantize", q, *parameters, self.format).result
        self.outputs.append(q)
        self.pool.append(_Quantized(back, scale, zero_point, len(self.stages)))
        self.stages.append(Stage(operator, reads))

    def _same(self, operator: str, value: Value, *read: _Quantized) -> None:
        """A stage with the scale of what it reads."""
        first = read[0]
        self._stage(operator, value, first.scale, first.zero_point, {a.stage: 1.0 for a in read})

    def _cut(self, value: Value, scale: float) -> Value:
        kind = self.source.choice(("", "relu", "relu6", "clamp"))
        if kind == "clamp":
            return self._create("aten.clamp", value, -20 * scale, 60 * scale).result
        return self._create(f"aten.{kind}", value).result if kind else value

    def layer(self, operator: str, a: _Quantized, shape: tuple[int, ...], axis: int, **window: object) -> None:
        """An operator with a stored weight, of which `axis` is that of outputs."""
        outputs = shape[axis]
        integers = self._random(shape, self.bound).to(torch.int8)
        per_channel = self.source.choice((False, True))
        spread = torch.rand(outputs, generator=self.generator) + 0.5 if per_channel else torch.ones(())
        scales = 2.0**-7 * (2.0 ** torch.log2(spread).round() if self.exact else spread)
        weight = self._create(
            "graphopt.dequantize", self._constant(integers), self._constant(scales), None, "int8",
            axis if per_channel else None,
        ).result  # fmt: skip
        bias = None if operator == "matmul" else self._bias(outputs, a.scale * scales)
        operands = (a.value, weight) if operator == "matmul" else (a.value, weight, bias)
        y = self._create(f"aten.{operator}", *operands, **window).result
        sums = integers.float().movedim(axis, 0).flatten(1)
        scale = self._scale(3 * SPREAD * a.scale * float((sums.square().sum(1).sqrt() * scales).mean()) / 127)
        gain = a.scale * float((sums.abs().sum(1) * scales).max()) / scale
        self._stage(operator, self._cut(y, scale), scale, self._zero(), {a.stage: gain})

    def _bias(self, outputs: int, scales: torch.Tensor) -> Value | None:
        kind = self.source.choice(("", "integers", "floats"))
        integers = self._random((outputs,), 2000)
        if kind == "integers":
            axis = 0 if scales.dim() else None
            stored = self._constant(integers.to(torch.int32)), self._constant(scales.float())
            return self._create("graphopt.dequantize", *stored, None, "int32", axis).result
        return self._constant(integers * scales.float()) if kind else None

    def conv(self, a: _Quantized) -> None:
        """A convolution of one or two dims: strided, padded, dilated, in groups."""
        dims = len(a.shape) - 2
        channels = a.shape[1]
        groups = self.source.choice([g for g in (1, 2, channels) if channels % g == 0])
        kernel = tuple(self.source.choice([k for k in (3, 1) if k <= size]) for size in a.shape[2:])
        padding = tuple(k // 2 * self.source.integer(0, 1) for k in kernel)
        stride = (self.source.choice((1, 2)),) * dims
        outputs = groups * self.source.choice((2, 1)) if groups > 1 else self.source.integer(2, 5)
        shape = (outputs, channels // groups, *kernel)
        self.layer(f"conv{dims}d", a, shape, 0, stride=stride, padding=padding, groups=groups)

    def linear(self, a: _Quantized) -> None:
        """A linear layer."""
        self.layer("linear", a, (self.source.integer(2, 6), a.shape[-1]), 0)

    def matmul(self, a: _Quantized) -> None:
        """A product with a stored matrix."""
        self.layer("matmul", a, (a.shape[-1], self.source.integer(2, 6)), 1)

    def product(self, a: _Quantized) -> None:
        """A product of activations."""
        y = self._create("aten.matmul", a.value, self._create("aten.transpose.int", a.value, -1, -2).result).result
        about = a.scale * a.scale * SPREAD * SPREAD * 3 * math.sqrt(a.shape[-1]) / 127
        scale = self._scale(about)
        gain = 2 * a.scale * a.scale * 256 * a.shape[-1] / scale
        self._stage("product", y, scale, self._zero(), {a.stage: gain})

    def binary(self, a: _Quantized) -> None:
        """A sum or product of elements."""
        b = self.source.choice([other for other in reversed(self.pool) if other.shape == a.shape])
        operator = self.source.choice(("add", "mul"))
        y = self._create(f"aten.{operator}.Tensor", a.value, b.value).result
        if operator == "add":
            scale = self._scale(max(a.scale, b.scale))
            gains = [a.scale / scale, b.scale / scale]
        else:
            scale = self._scale(a.scale * b.scale * SPREAD)
            gains = [256 * a.scale * b.scale / scale] * 2
        reads = {a.stage: gains[0]}
        reads[b.stage] = reads.get(b.stage, 0.0) + gains[1]
        self._stage(operator, self._cut(y, scale), scale, self._zero(), reads)

    def cat(self, a: _Quantized) -> None:
        """A value and another with its scale."""
        fitting = [o for o in self.pool if o.shape[2:] == a.shape[2:] and len(o.shape) == len(a.shape)]
        b = self.source.choice([o for o in fitting if (o.scale, o.zero_point) == (a.scale, a.zero_point)])
        if len(a.shape) == 2 or a.shape[1] + b.shape[1] <= 16:
            self._same("cat", self._create("aten.cat", (a.value, b.value), 1).result, a, b)

    def max_pool(self, a: _Quantized) -> None:
        """A maximum over a window."""
        kernel = tuple(min(2, size) for size in a.shape[2:])
        self._same("max_pool2d", self._create("aten.max_pool2d", a.value, kernel, (1, 1)).result, a)

    def avg_pool(self, a: _Quantized) -> None:
        """A mean over a window."""
        kernel = tuple(min(2, size) for size in a.shape[2:])
        scale = self._scale(a.scale / 2)
        y = self._create("aten.avg_pool2d", a.value, kernel, (1, 1)).result
        self._stage("avg_pool2d", y, scale, self._zero(), {a.stage: a.scale / scale})

    def reshape(self, a: _Quantized) -> None:
        """The last two dims as one."""
        shape = (*a.shape[:-2], a.shape[-2] * a.shape[-1])
        self._same("reshape", self._create("aten.reshape", a.value, shape).result, a)

    def clip(self, a: _Quantized) -> None:
        """A ReLU, or bounds, with a scale of its own."""
        scale = self._scale(a.scale)
        operator = self.source.choice(("relu", "clamp"))
        bounds = () if operator == "relu" else (-30 * a.scale, 50 * a.scale)
        y = self._create(f"aten.{operator}", a.value, *bounds).result
        self._stage(operator, y, scale, self._zero(), {a.stage: a.scale / scale})


_Draw = Callable[[_Drawer, _Quantized], None]
_BY_RANK: dict[int, tuple[_Draw, ...]] = {
    4: (
        *(_Drawer.conv, _Drawer.binary, _Drawer.cat, _Drawer.max_pool, _Drawer.avg_pool, _Drawer.clip),
        *(_Drawer.reshape, _Drawer.conv),
    ),
    3: (
        *(_Drawer.linear, _Drawer.conv, _Drawer.matmul, _Drawer.product, _Drawer.binary, _Drawer.cat, _Drawer.clip),
        *(_Drawer.reshape,),
    ),
    2: (_Drawer.linear, _Drawer.matmul, _Drawer.binary, _Drawer.cat, _Drawer.clip),
}
