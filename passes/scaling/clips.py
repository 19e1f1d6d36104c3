"""Scales under clips that stay: how far channels may grow until the clip would cut what it did not cut before.

With x the numbers of a channel on the calibration data and [a, b] the bounds of the clip, f(t x) = t f(x) there if

    t = 1                        where x leaves [a, b]
    t ≤ min(b / max x, a / min x)    elsewhere
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.passes.scaling.homogeneous import clip_bounds
from graphopt.passes.scaling.observing import Extent, Watcher, observe
from graphopt.passes.scaling.spaces import Spaces


def clip_limits(spaces: Spaces, batches: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return the greatest factor of each channel, [count + 1]; 0 for those that are clipped already."""
    limits = np.full(spaces.count + 1, np.inf)
    extents = {node: Extent(spaces.of(node.operands[0])) for node in spaces.clipped if node.operands[0] is not None}
    watchers: dict[Any, list[Watcher]] = {}
    for node, extent in extents.items():
        watchers.setdefault(node.operands[0], []).append(extent)
    observe(spaces.graph, watchers, batches)
    for node, extent in extents.items():
        for bound, most in zip(clip_bounds(node), (-extent.low, extent.high)):
            # A bound of 0 cuts the same at any scale.
            if bound:
                room = np.divide(abs(bound), most, out=np.full(most.shape, np.inf), where=most > 0)
                room = np.where(room < 1, 0.0, room)
                np.minimum.at(limits, spaces.of(node.operands[0]).ravel(), room.ravel())  # type: ignore[arg-type]
    return limits
