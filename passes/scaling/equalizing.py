"""Equalizing the ranges of channels between layers: Sinkhorn-like balancing by maxima, space by space.

With r₁ᵢ the greatest magnitude of what makes channel i, and r₂ᵢ of what reads it, each as a share of its tensor's,

    sᵢ = √(r₁ᵢ / r₂ᵢ) = (1/r₂ᵢ) √(r₁ᵢ r₂ᵢ),     W₁[i, :] / sᵢ,   b₁[i] / sᵢ,   W₂[:, i] · sᵢ

after which r₁ᵢ = r₂ᵢ. A space that changes by more than `TOLERANCE` has its neighbours looked at again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

from graphopt.ir import Value
from graphopt.passes.scaling.moving import bounded
from graphopt.passes.scaling.spaces import Factor, Space, Spaces
from graphopt.passes.support.evaluation import stored_tensor

TOLERANCE = 0.01
ROUNDS = 30
"""A space is looked at so often at most, so that the cost stays linear in layers."""


class Equalizer:
    """Finds the factors. limits: the greatest factor that each channel may have, [count + 1].

    scales: the factors t = 1/s found so far.
    """

    def __init__(self, spaces: Spaces, limits: np.ndarray | None = None) -> None:
        self.limits = np.full(spaces.count + 1, np.inf) if limits is None else limits
        self.scales = np.ones(spaces.count + 1)
        self.equalized = [space for space in spaces.spaces if space.makers_of("layer") and space.readers_of("layer")]
        self._magnitudes: dict[Value, torch.Tensor] = {}
        self._factors: dict[Value, list[Factor]] = {}
        for factor in spaces.factors:
            self._factors.setdefault(factor.constant, []).append(factor)

    def run(self) -> None:
        """Balance until nothing changes."""
        neighbours = self._neighbours()
        looks = dict.fromkeys(self.equalized, 0)
        pending = deque(self.equalized)
        waiting = set(self.equalized)
        while pending:
            space = pending.popleft()
            waiting.discard(space)
            looks[space] += 1
            if self._balance(space) > TOLERANCE:
                for other in (space, *neighbours[space]):
                    if other not in waiting and looks[other] < ROUNDS:
                        waiting.add(other)
                        pending.append(other)

    def spread(self, space: Space) -> float:
        """How unequal the channels are: the greatest over the least range of what makes them, now."""
        ranges = self._ranges(space, space.makers_of("layer"))
        ranges = ranges[ranges > 0]
        return float(ranges.max() / ranges.min()) if ranges.size else 1.0

    def _balance(self, space: Space) -> float:
        """Bring the two ranges of each channel together; return by how much the largest change of a factor is."""
        made = self._ranges(space, space.makers_of("layer"))
        read = self._ranges(space, space.readers_of("layer"))
        old = self.scales[space.channels]
        with np.errstate(divide="ignore", invalid="ignore"):
            wanted = np.where((made > 0) & (read > 0), old * np.sqrt(read / made), old)
        new = bounded(np.minimum(wanted, self.limits[space.channels]))
        change = np.abs(np.log(new / old)).max(initial=0.0)
        self.scales[space.channels] = new
        return float(change)

    def _ranges(self, space: Space, factors: Sequence[Factor]) -> np.ndarray:
        """The greatest magnitude of each channel of a space as a share of its tensor's, over some tensors."""
        found = np.zeros(space.size)
        for factor in factors:
            largest = factor.largest(self._scaled(factor.constant), space)
            found = np.maximum(found, largest[1:] / max(largest.max(), np.finfo(float).tiny))
        return found

    def _scaled(self, constant: Value) -> torch.Tensor:
        """The magnitudes of a weight under the factors of now."""
        if constant not in self._magnitudes:
            self._magnitudes[constant] = stored_tensor(constant).abs()
        found = self._magnitudes[constant]
        for factor in self._factors[constant]:
            own = self.scales[factor.channels] ** factor.exponent
            found = found * torch.from_numpy(own).to(found)
        return found

    def _neighbours(self) -> dict[Space, list[Space]]:
        """The spaces that share a weight with each."""
        weights = {space: [f.constant for f in (*space.makers, *space.readers)] for space in self.equalized}
        sharing: dict[Value, list[Space]] = {}
        for space, constants in weights.items():
            for constant in constants:
                sharing.setdefault(constant, []).append(space)
        return {
            space: [other for constant in constants for other in sharing[constant] if other is not space]
            for space, constants in weights.items()
        }
