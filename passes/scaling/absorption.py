"""High-bias absorption (Nagel et al. 2019): what a bias adds to every number of a channel goes into the next layer.

    W₂ f(y) + b₂  =  W₂ f(y − c) + (b₂ + W₂ c)      for f a ReLU, where y ≥ c

    c = max(0, E[y] − k·σ[y])                        so that y < c is rare, on the calibration data

The range that a scale must cover shrinks by c. Where y < c the result differs, so it is lossy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphopt.analysis.channels.atoms import Ids
from graphopt.ir import Graph, Node, Value
from graphopt.passes.rules.permutes import PERMUTES
from graphopt.passes.rules.reshapes import RESHAPES
from graphopt.passes.scaling.homogeneous import clip_bounds
from graphopt.passes.scaling.observing import observe
from graphopt.passes.scaling.spaces import Space, Spaces
from graphopt.passes.support.contractions import Contraction, contraction
from graphopt.rewrite import Rewriter
from graphopt.rewrite.pattern import ALONE

_RELUS = frozenset({"aten.relu", "aten.relu6", "aten.clamp"})
_MAXIMA = frozenset(f"aten.{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3))
_MEANS = frozenset(f"aten.adaptive_avg_pool{n}d" for n in (1, 2, 3)) | {"aten.mean"}
_SHIFTS = _MAXIMA | _MEANS | _RELUS | RESHAPES | PERMUTES | {"aten.dropout", "aten.contiguous", "aten.clone"}


def absorb_biases(
    graph: Graph, spaces: Spaces, batches: Sequence[Sequence[Any]], deviations: float, rewriter: Rewriter, name: str
) -> list[str]:
    """Absorb in every space where it may be; return notes. batches: to run the graph on, as it is now."""
    passing = _passing(graph, spaces)
    chains = [chain for space in spaces.spaces if (chain := _chain(space, passing.get(space, []))) is not None]
    moments = {chain.maker: _Moments(chain.space.local(spaces.of(chain.maker.result)), chain.space) for chain in chains}
    observe(graph, {node.result: [found] for node, found in moments.items()}, batches)
    changes: dict[Node, torch.Tensor] = {}
    count, most = 0, 0.0
    for chain in chains:
        found = moments[chain.maker]
        shift = np.maximum(found.mean - deviations * found.deviation, 0.0)
        shift[found.high > chain.bound] = 0.0
        shift[0] = 0.0
        count, most = count + int((shift > 0).sum()), max(most, float(shift.max()))
        if shift.any():
            made = chain.maker.result
            _add(changes, chain.maker, -_vector(chain.layer, chain.space.local(spaces.of(made)), made, shift))
            for reader in chain.readers:
                x = reader.node.operands[0]
                assert x is not None
                _add(changes, reader.node, reader.response(_vector(reader, chain.space.local(spaces.of(x)), x, shift)))
    for node, change in changes.items():
        layer = contraction(node, ALONE)
        assert isinstance(layer, Contraction) and node.operands[0] is not None
        with rewriter.at(node, name):
            rebuilt = layer.rebuilt(node.operands[0], None, layer.bias_tensor() + change, rewriter)
        if isinstance(rebuilt, str):
            return [f"absorption stopped at %{node.result.name}: {rebuilt}"]
        rewriter.replace(node, [rebuilt])
    return [f"absorbed the biases of {count} channels, {most:.3g} at most"]


class _Chain:
    """A layer, what passes shifts on, and the layers that read it. bound: above which a clip cuts."""

    def __init__(self, space: Space, layer: Contraction, readers: list[Contraction], bound: float) -> None:
        self.space, self.layer, self.maker, self.readers, self.bound = space, layer, layer.node, readers, bound


def _chain(space: Space, passing: list[Node]) -> _Chain | None:
    """The chain of a space that has one layer, a ReLU, and readers that see no padding."""
    makers = {node for factor in space.makers for node in factor.nodes}
    kinds = {factor.kind for factor in space.makers}
    if len(makers) != 1 or not kinds <= {"layer", "shift"} or not space.readers:
        return None
    (maker,) = makers
    between = [node for node in passing if node is not maker]
    if not any(node.op.base in _RELUS for node in between) or not all(node.op.base in _SHIFTS for node in between):
        return None
    layer = contraction(maker, ALONE)
    readers = [contraction(node, ALONE) for factor in space.readers for node in factor.nodes]
    sound = [r for r in readers if isinstance(r, Contraction) and not r.pads and not r.transposed]
    if not isinstance(layer, Contraction) or len(sound) != len(readers):
        return None
    bounds = [clip_bounds(node)[1] for node in between if node.op.base in ("aten.relu6", "aten.clamp")]
    return _Chain(space, layer, sound, min((b for b in bounds if b is not None), default=np.inf))


def _passing(graph: Graph, spaces: Spaces) -> dict[Space, list[Node]]:
    """The nodes whose results belong to each space."""
    owner = {channel: space for space in spaces.spaces for channel in range(space.start, space.start + space.size)}
    found: dict[Space, list[Node]] = {}
    for node in graph:
        channels = [int(channel) for result in node.results for channel in np.unique(spaces.of(result)) if channel]
        for space in dict.fromkeys(owner[channel] for channel in channels if channel in owner):
            found.setdefault(space, []).append(node)
    return found


def _vector(layer: Contraction, channels: Ids, value: Value, shift: np.ndarray) -> torch.Tensor:
    """A number for each channel of a value that a layer reads or makes."""
    axis = layer.channel_axis(value)
    size = int(value.shape[axis])
    flat = channels[tuple(slice(None) if dim == axis else 0 for dim in range(channels.ndim))]
    device = layer.bias_tensor().device
    return torch.from_numpy(np.broadcast_to(shift[flat], (size,)).copy()).to(device)


def _add(changes: dict[Node, torch.Tensor], node: Node, change: torch.Tensor) -> None:
    changes[node] = changes[node] + change if node in changes else change


class _Moments:
    """Mean, standard deviation and greatest number by channel of a space, [size + 1]."""

    def __init__(self, channels: Ids, space: Space) -> None:
        self.channels, self.size = channels, space.size + 1
        self.high = np.full(self.size, -np.inf)
        self._count, self._sum, self._squares = (np.zeros(self.size) for _ in range(3))

    def __call__(self, tensor: torch.Tensor) -> None:
        if not tensor.numel():
            return
        dims = [dim for dim, size in enumerate(self.channels.shape) if size == 1]
        wide = tensor.double()
        for total, own in ((self._sum, wide.sum(dims)), (self._squares, wide.square().sum(dims))):
            np.add.at(total, self.channels.ravel(), own.cpu().numpy().ravel())
        np.add.at(self._count, self.channels.ravel(), tensor.numel() / self.channels.size)
        np.maximum.at(self.high, self.channels.ravel(), wide.amax(dims).cpu().numpy().ravel())

    @property
    def mean(self) -> np.ndarray:
        """E[y]."""
        return self._sum / np.maximum(self._count, 1)

    @property
    def deviation(self) -> np.ndarray:
        """σ[y]."""
        return np.sqrt(np.maximum(self._squares / np.maximum(self._count, 1) - self.mean**2, 0))
