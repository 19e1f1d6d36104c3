"""Palettize: weights become indices into small codebooks, chosen by k-means.

    W → lookup(unpack(P), C, s):    W[r, j] ≈ s[r] · C[I[r, j]],  P the indices packed to bits

Codes lie where the numbers are, so at the same size there is less noise than on a grid of equal steps. What it saves is
the file; the products stay in floating point.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from graphopt.errors import GraphOptError, requested
from graphopt.ir import Graph
from graphopt.passes.quantization.palettes import Grain, palette, signal_to_noise
from graphopt.passes.quantization.palettized import StoredWeight, Writer
from graphopt.passes.support.data import batches_of
from graphopt.passes.support.globs import check_globs, first_fitting
from graphopt.passes.weight_pruning.layers import Layer, find_layers
from graphopt.passes.weight_pruning.moments import measure
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_NOTHING = "nothing to palettize: no layer has a stored weight of single precision, and there is no embedding table"
SHOWN = 5
"""The notes name so many weights, those with the most noise."""


@dataclass(frozen=True)
class Palettize(Pass):
    """Store the weights of layers, and embedding tables, as indices into codebooks chosen by k-means.

    bits: for each number, 1 to 8. vector: neighbours that share an index into a codebook of vectors; bits · vector is 8
        at most. Two at 4 bits have less noise, but take longer to choose.
    group_size: how many output channels share a codebook; 0 gives each weight one. The last group may be smaller.
    scaled: give each output channel a scale, in half precision; block_size: or each block of so many neighbours among
        its inputs, in float8_e4m3fn.
    weighted: errors count by the mean square of the input that they meet; by default where there is calibration data.
    embeddings: embedding tables, too; each has one codebook, and a scale for each row.
    smallest: weights of fewer elements stay. ignore: weights left as they are, by name or glob.
    samples: how many batches of calibration data are made use of, at most.

    Where the result is trained, codebooks and scales are parameters.
    """

    contract = Contract.LOSSY
    establishes = frozenset({"quantized"})
    conflicts = frozenset({"reduced-precision"})

    bits: int = 4
    vector: int = 1
    group_size: int = 0
    scaled: bool = True
    block_size: int = 0
    weighted: bool | None = None
    embeddings: bool = True
    smallest: int = 1024
    ignore: tuple[str, ...] = ()
    samples: int = 128

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise GraphOptError(f"bits is {self.bits}; codebooks have indices of 1 to 8 bits")
        if self.vector < 1 or self.bits * self.vector > 8:
            raise GraphOptError(
                f"vector is {self.vector}; with {self.bits} bits a number it is 1 to {8 // self.bits}, "
                "so that an index has 8 bits at most"
            )
        if min(self.group_size, self.block_size) < 0 or self.samples < 1:
            raise GraphOptError("group_size and block_size are 0 or a number of neighbours, samples at least 1")
        if self.block_size and not self.scaled:
            raise GraphOptError("block_size says what shares a scale, so scaled=false leaves it without effect")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            GraphOptError: a weight that is not finite; the message names it.
            InputError: `weighted` without data, or data that does not fit.
            UnknownNameError: a name in `ignore` that no weight has.
        """
        with requested():
            found, left = self._chosen(graph)
            for weight in found:
                if not bool(weight.tensor.isfinite().all()):
                    raise GraphOptError(f"weight {weight.name} holds a NaN or an infinity; name it in `ignore`")
            if not found:
                return PassResult(False, notes=[_NOTHING, *left])
            importance = self._importance(graph, [w.layer for w in found if w.layer is not None], context)
        rewriter = Rewriter(graph, context.listeners)
        report = PalettizeReport(self.bits, left=left)
        for weight in found:
            self._store(weight, importance.get(weight.layer), report, rewriter, context.trainable)
        return PassResult(rewriter.changed, notes=report.lines(), details=report)

    def _chosen(self, graph: Graph) -> tuple[list[StoredWeight], list[str]]:
        found = {
            layer.weight: StoredWeight(layer.weight, layer)
            for layer in find_layers(graph, folded=True)
            if layer.kind != "recurrent"
        }
        for node in graph:
            value = node.operands[0] if node.name == "aten.embedding" else None
            if value is not None and value.constant is not None and value.name not in graph.mutations:
                found.setdefault(value, StoredWeight(value, None))
        weights = [w for w in found.values() if w.is_single and w.tensor.numel() >= self.smallest]
        names = [weight.name for weight in weights]
        check_globs(self.ignore, names, "weight", f"It was given to {self.name} as one to ignore.")
        kept, left = [], []
        for weight in weights:
            reason = self._reason(weight)
            if reason:
                left.append(f"{weight.name} stays as it is: {reason}")
            else:
                kept.append(weight)
        return kept, left

    def _reason(self, weight: StoredWeight) -> str | None:
        """Why a weight is left alone."""
        ignored = first_fitting(self.ignore, [weight.name])
        if ignored is not None:
            return f"ignored as {ignored!r}"
        if weight.layer is not None and weight.layer.mask is not None:
            return "it has a mask apart; run fold-masks before"
        if weight.others:
            return f"{weight.others[0]!r} reads it, too"
        if weight.tables and not self.embeddings:
            return "embeddings=false"
        return None

    def _importance(self, graph: Graph, layers: list[Layer], context: PassContext) -> dict[Layer | None, torch.Tensor]:
        """The mean square of what each number of a weight meets, in the weight's shape."""
        if not (self.weighted or (self.weighted is None and context.calibration is not None)):
            return {}
        sets = batches_of(graph, context, self.samples, self.name, "to weight errors")
        found = measure(graph, layers, sets, gram=False)
        return {
            layer: layer.from_matrices(moments.squares[:, None].expand(layer.matrix_shape))
            for layer, moments in found.items()
            if moments.count
        }

    def _store(
        self,
        weight: StoredWeight,
        importance: torch.Tensor | None,
        report: PalettizeReport,
        rewriter: Rewriter,
        trains: bool,
    ) -> None:
        layout = weight.layout
        matrix = layout.to_matrix(weight.tensor)
        group = 0 if weight.tables or self.group_size >= len(matrix) else self.group_size
        narrow = not trains and not weight.tables
        wanted = Grain(self.bits, self.vector, group, self.block_size, self.scaled, not trains, narrow)
        grain, told = wanted.fitted(matrix.shape[1])
        if group and len(matrix) % group:
            last = f"groups of {group} do not divide its {len(matrix)} channels: the last has {len(matrix) % group}"
            told = f"{told}; {last}" if told else last
        made = palette(matrix, None if importance is None else layout.to_matrix(importance), grain)
        size, before = made.bytes(bool(weight.tables)), 4 * matrix.numel()
        if size >= before:
            report.left.append(
                f"{weight.name} stays as it is: with its codebooks it would take {size} bytes, not {before}"
            )
            return
        noise = signal_to_noise(matrix, made.matrix())
        report.weights.append(WeightFigures(weight.name, tuple(weight.tensor.shape), 8 * size / matrix.numel(), noise))
        if told:
            report.fallbacks.append(f"{weight.name}: {told}")
        Writer(rewriter, self.name, trains).write(weight, made)


@dataclass(frozen=True)
class WeightFigures:
    """One weight. bits: a number, with codebooks and scales. noise: its signal-to-noise ratio in decibels."""

    name: str
    shape: tuple[int, ...]
    bits: float
    noise: float


@dataclass
class PalettizeReport:
    """weights: in graph order. left: what stayed as it was, and why. fallbacks: what has other groups."""

    bits: int
    weights: list[WeightFigures] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Sentences: the sizes, then the weights with the most noise first."""
        numbers = sum(math.prod(figures.shape) for figures in self.weights)
        taken = sum(math.prod(figures.shape) * figures.bits for figures in self.weights)
        whole = f"{len(self.weights)} weights in {self.bits} bits, {taken / max(numbers, 1):.3f} with their codebooks"
        worst = sorted(self.weights, key=lambda figures: figures.noise)[:SHOWN]
        noises = ["exact" if math.isinf(figures.noise) else f"{figures.noise:.1f} dB" for figures in worst]
        shown = [f"{f.name}: {noise}, {f.bits:.3f} bits a number" for f, noise in zip(worst, noises)]
        return [whole, *shown, *self.fallbacks, *self.left]
