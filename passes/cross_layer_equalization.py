"""Cross-layer equalization (Nagel et al. 2019, Data-Free Quantization): give the channels between layers equal ranges.

    W₂ f(W₁ x + b₁)  =  (W₂ S) f(S⁻¹ W₁ x + S⁻¹ b₁),    sᵢ = (1/r₂ᵢ) √(r₁ᵢ r₂ᵢ),   f(s x) = s f(x) for s > 0

with r₁ᵢ the range of row i of W₁, r₂ᵢ that of column i of W₂. It is done for all layers together until nothing changes.
A weight with one scale for all then rounds every channel as finely as the others; depthwise convolutions gain most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.errors import GraphOptError, requested, unknown_name
from graphopt.ir import Graph, Node
from graphopt.passes.scaling.absorption import absorb_biases
from graphopt.passes.scaling.clips import clip_limits
from graphopt.passes.scaling.equalizing import Equalizer
from graphopt.passes.scaling.moving import apply
from graphopt.passes.scaling.report import kept_notes
from graphopt.passes.scaling.spaces import Spaces
from graphopt.passes.support.data import batches_of
from graphopt.passmanager import Pass, PassContext, PassResult
from graphopt.rewrite import Contract, Rewriter

_CLIPS = ("keep", "data", "channel")


@dataclass(frozen=True)
class CrossLayerEqualization(Pass):
    """Balance the ranges of weights from layer to layer, before `quantize`.

    clips: what becomes of ReLU6 and other clips at fixed numbers, which scales cannot pass as they are: "keep" leaves
        channels that a clip bounds as they are; "channel" gives each channel bounds of its own, which is exact, and
        costs engines the fusion of the clip; "data" leaves the clip, and scales channels as far as none of them comes
        to be clipped on the calibration data, and those not at all that are clipped already (lossy beyond the data).
    absorb: move what a bias adds to every number of a channel into the next layer (see `scaling.absorption`; lossy).
    deviations: of absorb, how many standard deviations below the mean stay.
    samples: how many batches of calibration data are used, at most, by clips=data and absorb.
    """

    contract = Contract.REASSOCIATING
    conflicts = frozenset({"quantized"})

    clips: str = "keep"
    absorb: bool = False
    deviations: float = 3.0
    samples: int = 64

    def __post_init__(self) -> None:
        if self.clips not in _CLIPS:
            raise unknown_name("value of clips", self.clips, _CLIPS)
        if self.samples < 1 or self.deviations < 0:
            raise GraphOptError("samples is at least 1, deviations at least 0")
        if self.absorb or self.clips == "data":
            object.__setattr__(self, "contract", Contract.LOSSY)  # Only the calibration data vouches for these.

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        """Rewrite `graph` in place.

        Raises:
            InputError: `clips="data"` or `absorb` without data, or data that does not fit.
        """
        spaces = Spaces(graph, clips=self.clips != "keep")
        rewriter = Rewriter(graph, context.listeners)
        with requested():
            needs = self.absorb or (self.clips == "data" and spaces.clipped)
            batches = batches_of(graph, context, self.samples, self.name) if needs else []
            limits = clip_limits(spaces, batches) if self.clips == "data" else None
        equalizer = Equalizer(spaces, limits)
        before = [equalizer.spread(space) for space in equalizer.equalized]
        equalizer.run()
        after = [equalizer.spread(space) for space in equalizer.equalized]
        clipped = spaces.clipped if self.clips == "channel" else []
        notes = apply(spaces, equalizer.scales, rewriter, self.name, clipped)
        if not notes and before:
            notes.append(
                f"equalized {len(before)} groups of channels; ranges differed by a factor of {_middle(before):.3g}, "
                f"now {_middle(after):.3g} (medians; {max(before):.3g} and {max(after):.3g} at most)"
            )
        if self.absorb:
            with requested():
                notes += absorb_biases(graph, spaces, batches, self.deviations, rewriter, self.name)
        return PassResult(rewriter.changed, notes=notes + kept_notes(spaces))

    def explain(self, graph: Graph, node: Node) -> str | None:
        """Why a layer keeps the scale of what it reads."""
        return Spaces(graph, clips=self.clips != "keep").reason(node)


def _middle(numbers: list[float]) -> float:
    return float(np.median(numbers))
