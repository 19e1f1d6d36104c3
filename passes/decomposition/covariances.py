"""Second moments of what layers read on calibration data, layer by layer, so that few are held at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphopt.ir import Graph
from graphopt.passes.decomposition.sites import Site
from graphopt.passes.weight_pruning.moments import Moments, measure

HELD = 1 << 28
"""The bytes of moments that are held at once; the data is run again for those of further layers."""


@dataclass(frozen=True)
class Inputs:
    """What a layer reads: Σ of each group, [groups, columns, columns], about zero; and the mean, [groups, columns]."""

    second: torch.Tensor
    mean: torch.Tensor

    def about(self, group: int, centred: bool) -> torch.Tensor:
        """Σ of a group in double precision. centred: about the mean, the covariance."""
        second, mean = self.second[group].double(), self.mean[group]
        return second - torch.outer(mean, mean) if centred else second


class Evidence:
    """What is known of the inputs of layers. sets: flat inputs of the graph; none, and nothing is known.

    It may be gone through more than once: if all fits, it is kept.
    """

    def __init__(self, graph: Graph, sites: Sequence[Site], sets: Sequence[Sequence[Any]]) -> None:
        self.graph = graph
        self.sets = sets
        self._parts = _parts(sites)
        self._kept: dict[Site, Inputs] | None = None

    def __iter__(self) -> Iterator[tuple[Site, Inputs | None]]:
        """Each layer with what it reads.

        Raises:
            GraphOptError: what a layer reads is not finite; the message names it.
        """
        for part in self._parts:
            known: dict[Site, Inputs] = {}
            if self.sets:
                known = self._kept if self._kept is not None else _measured(self.graph, part, self.sets)
                if len(self._parts) == 1:
                    self._kept = known
            for site in part:
                yield site, known.get(site)


def _parts(sites: Sequence[Site]) -> list[list[Site]]:
    found: list[list[Site]] = []
    part: list[Site] = []
    held = 0
    for site in sites:
        groups, _, columns = (1, 0, 0) if site.shape.kind == "embedding" else site.layer.matrix_shape
        size = groups * columns * columns * 4
        if part and held + size > HELD:
            found.append(part)
            part, held = [], 0
        part.append(site)
        held += size
    return [*found, part] if part else found


def _measured(graph: Graph, sites: Sequence[Site], sets: Sequence[Sequence[Any]]) -> dict[Site, Inputs]:
    layers = {site.layer: site for site in sites if site.shape.kind != "embedding"}
    if not layers:
        return {}
    moments = measure(graph, list(layers), sets, gram=True)
    return {layers[layer]: _inputs(found) for layer, found in moments.items() if found.count}


def _inputs(moments: Moments) -> Inputs:
    assert moments.gram is not None and moments.sums is not None
    return Inputs(moments.gram.div_(moments.count), moments.sums.double() / moments.count)
