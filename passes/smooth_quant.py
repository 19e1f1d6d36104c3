"""SmoothQuant (Xiao et al. 2022): move the scales of activations' channels into the weights that read them.

    X W  =  (X diag(s)⁻¹) (diag(s) W),     sⱼ = max|Xⱼ|^α / max|Wⱼ|^(1−α)

The division goes into what makes X: the weight and bias of a norm, the rows of a layer. An activation with a few large
channels and one scale for all of them loses the small ones; a weight has a scale for each output and bears more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import Graph, Node
from graphopt.ops.quantization import find_format
from graphopt.ops.quantization.arithmetic import dequantized, quantized
from graphopt.passes.quantization.clipping import Grid, affine, choose_range
from graphopt.passes.quantization.spread import Spread
from graphopt.passes.quantization.weights import weight_scales
from graphopt.passes.scaling.moving import apply, bounded
from graphopt.passes.scaling.readers import Inputs, Reader, by_channel, inputs_of, readers_of
from graphopt.passes.scaling.report import kept_notes
from graphopt.passes.scaling.spaces import Space, Spaces
from graphopt.passes.support.data import batches_of
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

KEPT = 1 << 18
"""So many elements of each activation are kept to judge a choice by."""
_ALPHAS = tuple(step / 10 for step in range(11))
_TINY = 1e-300
WORTH = 2.0
"""So many decibels of its own must a group of layers gain: less is lost among the errors that others pass on to it."""
NOTHING = "nothing to smooth: no layer reads what a norm or a layer before it may scale"


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divide activations by a scale for each channel, and multiply the weights that read them, before `quantize`.

    alpha: how much of the range goes from activations to weights, 0 to 1; by default each group of layers gets the one
        under which its quantized output is nearest to what it was, or is left as it is.
    insert: where nothing before takes the division, divide in front of the layer.
    convolutions: also smooth what convolutions read.
    activations, dtype, granularity: as of `quantize`, which the search imitates.
    samples: how many batches of calibration data are used, at most.

    It runs the graph on the calibration data, or else on the sample inputs.
    """

    contract = Contract.REASSOCIATING
    conflicts = frozenset({"quantized"})

    alpha: float | None = None
    insert: bool = False
    convolutions: bool = False
    activations: str = "uint8"
    dtype: str = "int8"
    granularity: str = "channel"
    samples: int = 64

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise GraphOptError(f"alpha is {self.alpha}; it lies between 0 and 1")
        if self.granularity not in ("channel", "tensor"):
            raise unknown_name("value of granularity", self.granularity, ("channel", "tensor"))
        if self.samples < 1:
            raise GraphOptError(f"samples is {self.samples}; at least one is needed")
        for name in (self.activations, self.dtype):
            if find_format(name).is_float:
                raise GraphOptError(f"{name} is no format of static quantization; choose int2 to int16")

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: no data, data that does not fit, or activations that are not finite.
        """
        spaces = Spaces(graph)
        if self.insert:
            spaces.insert()
        groups = {
            space: readers for space in spaces.spaces if (readers := readers_of(spaces, space, self.convolutions))
        }
        if not groups:
            return PassResult(False, notes=[NOTHING, *kept_notes(spaces)])
        everyone = [reader for readers in groups.values() for reader in readers]
        with requested():
            batches = batches_of(graph, context, self.samples, self.name)
            seen = inputs_of(spaces, everyone, batches, keep=KEPT if self.alpha is None else 0)
        scales, notes = np.ones(spaces.count + 1), []
        for space, readers in groups.items():
            chosen, note = self._chosen(space, readers, [seen[reader] for reader in readers])
            scales[space.channels] = 1 / chosen[1:]
            notes.append(note)
        rewriter = Rewriter(graph, context.listeners)
        failed = apply(spaces, scales, rewriter, self.name)
        return PassResult(rewriter.changed, notes=(failed or notes) + kept_notes(spaces))

    def explain(self, graph: Graph, node: Node) -> str | None:
        """Why a layer keeps the scale of what it reads."""
        return Spaces(graph).reason(node)

    def _chosen(self, space: Space, readers: Sequence[Reader], inputs: Sequence[Inputs]) -> tuple[np.ndarray, str]:
        """The scales of a space by channel, and a note."""
        weights = np.zeros(space.size + 1)
        for reader in readers:
            weights = np.maximum(weights, reader.factor.largest(reader.weight, space))
        alpha, note = self.alpha, f"smoothed with alpha {self.alpha:.2g}" if self.alpha is not None else ""
        if alpha is None:
            alpha, note = self._searched(space, weights, readers, inputs)
        if alpha is None:
            return np.ones(space.size + 1), f"{space.name}: {note}"
        seen = by_channel(space, readers, [given.largest for given in inputs])
        return smoothing(seen, weights, alpha), f"{space.name}: {note}"

    def _searched(
        self, space: Space, weights: np.ndarray, readers: Sequence[Reader], inputs: Sequence[Inputs]
    ) -> tuple[float | None, str]:
        """The best alpha, None if none is better than to leave the space as it is, and a note.

        What it does is measured on one half of the samples, with scales and ranges from the other: a scale that fits
        the data too well is one that new data exceed.
        """
        judge = _Judge(readers, inputs, self)
        seen = by_channel(space, readers, [given.folds[0].largest for given in inputs])
        before = judge(np.ones(space.size + 1))
        errors = {alpha: judge(smoothing(seen, weights, alpha)) for alpha in _ALPHAS}
        best = min(errors, key=lambda alpha: errors[alpha])
        gain = 10 * np.log10(max(before, _TINY) / max(errors[best], _TINY))
        if gain < WORTH:
            return None, f"left as it was, for alpha {best:.2g} is the best and gains {gain:.1f} dB"
        return best, f"smoothed with alpha {best:.2g}, {gain:.1f} dB"


def smoothing(seen: np.ndarray, weights: np.ndarray, alpha: float) -> np.ndarray:
    """s = seen^α / weights^(1−α), and 1 where either is 0.

    >>> smoothing(np.array([0.0, 16.0, 4.0, 2.0]), np.array([0.0, 1.0, 4.0, 0.0]), 0.5).tolist()
    [1.0, 4.0, 1.0, 1.0]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = seen**alpha / weights ** (1 - alpha)
    return bounded(np.where((seen > 0) & (weights > 0), found, 1.0))


class _Judge:
    """The squared error of the outputs of some layers with quantized activations and weights, on data held out."""

    def __init__(self, readers: Sequence[Reader], inputs: Sequence[Inputs], options: SmoothQuant) -> None:
        self.activations, self.weights = find_format(options.activations), find_format(options.dtype)
        self.granularity = options.granularity
        self.read: dict[Inputs, list[Reader]] = {}
        for reader, given in zip(readers, inputs):
            if given.folds[0].kept:
                self.read.setdefault(given, []).append(reader)
        self.known = {given: torch.cat(given.folds[0].kept) for given in self.read}
        # One sample alone is held out from nothing.
        self.held = {given: torch.cat(given.folds[bool(given.folds[1].kept)].kept) for given in self.read}
        self.wanted = {r: r.computed(self.held[given], r.weight) for given, own in self.read.items() for r in own}

    def __call__(self, scales: np.ndarray) -> float:
        total = 0.0
        for given, readers in self.read.items():
            own = readers[0].by_column(scales, self.held[given])
            rounded = self._activation(self.known[given] / own, self.held[given] / own)
            for reader in readers:
                found = reader.computed(rounded, self._weight(reader, reader.scaled_weight(scales)))
                total += float((found - self.wanted[reader]).double().square().sum())
        return total

    def _activation(self, known: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        """Activations rounded, with the range of others."""
        spread = Spread()
        spread.add(known)
        grid = Grid(self.activations, symmetric=self.activations.low < 0)
        scale, zero = affine(*choose_range(spread, "lp", grid, 99.99, 3.0), self.activations, grid.symmetric)
        step, point = torch.tensor(scale), torch.tensor(zero, dtype=self.activations.storage)
        return dequantized(quantized(held, step, point, self.activations, None, 0), step, point, None, 0)

    def _weight(self, reader: Reader, weight: torch.Tensor) -> torch.Tensor:
        axis = reader.output_axis if self.granularity == "channel" else None
        scales = weight_scales(weight, self.weights, axis, search=False)
        return dequantized(quantized(weight, scales, None, self.weights, axis, 0), scales, None, axis, 0)
