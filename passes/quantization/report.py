"""What quantization did to each layer: how its input is clipped, and how much noise its output has.

The signal-to-quantization-noise ratio, 10 log₁₀(Σ y² / Σ (ŷ − y)²) in decibels, is given twice: of the layer alone, on
the inputs that it has in floating point; and with everything before it quantized, too. A layer whose own is high and
whose accumulated is low suffers from those before it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from graphopt.ir import Graph, Node, Value
from graphopt.passes.quantization.fused_pairs import FusedPairs
from graphopt.passes.quantization.histograms import Histogram
from graphopt.passes.quantization.insertion import Layer
from graphopt.passes.quantization.kernels_used import KernelUse
from graphopt.passes.quantization.kernels_used import lines as kernel_lines
from graphopt.passes.quantization.lockstep import Lockstep
from graphopt.passes.support.noise import energies

if TYPE_CHECKING:
    from graphopt.passes.format_search.report import SearchReport

SHOWN = 5
"""The notes name so many layers, those with the most noise of their own."""


@dataclass(frozen=True)
class LayerFigures:
    """One layer. format: of its weight. seen: the least and greatest number of its input. covered: what its scale
    covers.

    own, accumulated: its signal-to-noise ratio in decibels, alone and with everything before it quantized.
    milliseconds: what it takes alone in floating point and on integers, where that was measured.
    histogram: of what was seen of its input, where one was kept.
    """

    name: str
    operator: str
    format: str
    seen: tuple[float, float]
    covered: tuple[float, float]
    own: float
    accumulated: float
    milliseconds: tuple[float, float] | None = None
    histogram: Histogram | None = None


@dataclass
class Trial:
    """A recipe that was judged on samples held out from it. recipe: as text. failed: why it did not work."""

    recipe: str
    decibels: float = -math.inf
    failed: str = ""
    chosen: bool = False

    def line(self) -> str:
        """As a sentence."""
        found = f"failed, {self.failed}" if self.failed else f"{self.decibels:.2f} dB on samples held out"
        return f"{'chosen: ' if self.chosen else ''}{self.recipe}: {found}"


@dataclass
class QuantizationReport:
    """counts: of layers, other operators, pairs. layers: in graph order. left: what stayed a float, and why.

    fused: what the engine made of the pairs, if one says. kernels: what PyTorch computes with, if it does.
    search: how formats were chosen, if they were. trials: the recipes that were compared, if they were.
    """

    counts: dict[str, int]
    layers: list[LayerFigures] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    fused: FusedPairs | None = None
    kernels: list[KernelUse] = field(default_factory=list)
    search: SearchReport | None = None
    trials: list[Trial] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; infinities as strings."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)), parse_constant=str)
        return found

    def lines(self) -> list[str]:
        """Sentences: the counts, then the layers with the most noise first."""
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items())
        worst = sorted(self.layers, key=lambda figures: figures.own)[:SHOWN]
        return [
            f"quantized {counts}",
            *([] if self.fused is None else self.fused.lines()),
            *kernel_lines(self.kernels),
            *map(_sentence, worst),
            *self.left,
        ]


def _sentence(layer: LayerFigures) -> str:
    seen, covered = (f"{low:.3g} to {high:.3g}" for low, high in (layer.seen, layer.covered))
    noise = f"{layer.own:.1f} dB alone, {layer.accumulated:.1f} dB with all before it"
    return f"{layer.name} ({layer.operator}, {layer.format}): {noise}; its input is {seen}, covered is {covered}"


@dataclass(frozen=True)
class Recorded:
    """What layers read and gave in floating point, by sample."""

    inputs: dict[Value, list[torch.Tensor]]
    outputs: dict[Node, list[torch.Tensor]]


def record(graph: Graph, layers: Mapping[Node, Value], sets: Sequence[Sequence[Any]]) -> Recorded:
    """Run the graph and keep what layers read and give. layers: with the activation that each reads."""
    recorded = Recorded({}, {})
    wanted = set(layers.values())
    for index, value in enumerate(graph.inputs):
        if value in wanted:
            recorded.inputs[value] = [given[index] for given in sets]

    def watch(node: Node, results: list[list[Any]]) -> None:
        for position, value in enumerate(node.results):
            if value in wanted:
                recorded.inputs[value] = [found[position] for found in results]
        if node in layers:
            recorded.outputs[node] = [found[0] for found in results]

    Lockstep(graph).run_all(sets, watch)
    return recorded


class Judge(Lockstep):
    """Measures the layers of a quantized graph against what was recorded of them."""

    def own(self, layer: Layer, given: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
        """The ratio of a layer on given activations."""
        with torch.no_grad():
            return decibels(wanted, [self._computed(layer.node.result, {layer.source: x}) for x in given])

    def _computed(self, value: Value, known: dict[Value, Any]) -> Any:
        """A value that is computed from known ones and from what is stored."""
        if value.constant is not None:
            return self.constant(value)
        if value not in known:
            assert value.producer is not None
            operands = [None if v is None else self._computed(v, known) for v in value.producer.operands]
            known[value] = self._evaluate(value.producer, operands, {})[0]
        return known[value]

    def accumulated(
        self, layers: Mapping[Node, Sequence[torch.Tensor]], sets: Sequence[Sequence[Any]]
    ) -> dict[Node, float]:
        """The ratio of each layer in a run of the whole graph. layers: with what they should give."""
        found: dict[Node, float] = {}

        def watch(node: Node, results: list[list[Any]]) -> None:
            if node in layers:
                found[node] = decibels(layers[node], [y for (y,) in results])

        self.run_all(sets, watch)
        return found


def decibels(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> float:
    """The signal-to-noise ratio over several tensors; infinite without noise."""
    signal, noise = energies(wanted, found)
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
