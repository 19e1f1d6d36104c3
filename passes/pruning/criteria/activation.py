"""Criteria from what runs over the data: how active a channel is where the next layers read it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch

from graphopt.analysis.channels import ChannelAnalysis, Group, Member, Role
from graphopt.analysis.channels.axes import is_static, merged
from graphopt.ir import TensorType, Value
from graphopt.passes.pruning.criteria.base import Scores, register_criterion
from graphopt.passes.pruning.criteria.evidence import Evidence, channel_sums, slot_sums, tensor_of, weights


class Site(NamedTuple):
    """A dim of an activation that a layer behind the group reads. channels: of the group, for each slot, or -1."""

    value: Value
    dim: int
    channels: np.ndarray


Reduction = Callable[[torch.Tensor, int], np.ndarray]
"""What a run says of each slot of a value along a dim."""

Measured = dict[tuple[Value, int], np.ndarray]


@dataclass(frozen=True)
class _Activity:
    """The mean of a function of the activations over batch, space and layers that read them."""

    needs: ClassVar[Literal["nothing", "data", "loss"]] = "data"
    name: ClassVar[str]

    def each(self, activation: torch.Tensor) -> torch.Tensor:
        """What is averaged, elementwise."""
        raise NotImplementedError

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the scores of all groups, from one run a batch."""
        sites = {group.name: list(_sites(evidence.analysis, group)) for group in groups}
        sums, elements = _measure(evidence, sites.values(), lambda x, dim: slot_sums(self.each(x), dim))
        found = {}
        for group in groups:
            total, count = np.zeros(group.size), np.zeros(group.size)
            for value, dim, channels in sites[group.name]:
                total += channel_sums(sums[value, dim], channels, group.size)
                count += channel_sums(np.full(len(channels), elements[value, dim]), channels, group.size)
            if count.all():
                found[group.name] = total / count
        return found


@register_criterion("apoz")
@dataclass(frozen=True)
class APoZ(_Activity):
    """The share of activations that are not zero: 1 less the average percentage of zeros."""

    name: ClassVar[str] = "apoz"

    def each(self, activation: torch.Tensor) -> torch.Tensor:
        """1 where an activation is not zero."""
        return activation != 0


@register_criterion("mean-activation")
@dataclass(frozen=True)
class MeanActivation(_Activity):
    """The mean magnitude of the activations."""

    name: ClassVar[str] = "mean-activation"

    def each(self, activation: torch.Tensor) -> torch.Tensor:
        """The magnitude."""
        return activation.abs()


@register_criterion("wanda")
@dataclass(frozen=True)
class Wanda:
    """Σ |Wᵢₖ| ‖Xₖ‖₂ over the weights that multiply a channel X, in all layers that read it.

    ‖Xₖ‖₂ is over batch and positions. Layers are those whose weight the channel is an input of.
    """

    name: ClassVar[str] = "wanda"
    needs: ClassVar[Literal["nothing", "data", "loss"]] = "data"

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the scores of all groups, from one run a batch."""
        pairs = {group.name: list(_reads(evidence.analysis, group)) for group in groups}
        sites = ([site for _, site in found] for found in pairs.values())
        squares, _ = _measure(evidence, sites, lambda x, dim: slot_sums(x.square(), dim))
        scores = {}
        for group in groups:
            total = np.zeros(group.size)
            for member, (value, dim, channels) in pairs[group.name]:
                magnitudes = slot_sums(tensor_of(member).abs(), member.dim)
                if np.array_equal(member.channels, channels):  # slot by slot
                    total += channel_sums(magnitudes * np.sqrt(squares[value, dim]), channels, group.size)
                else:  # a grouped layer's weight has the slots of one of its groups
                    norms = np.sqrt(channel_sums(squares[value, dim], channels, group.size))
                    total += channel_sums(magnitudes, member.channels, group.size) * norms
            if pairs[group.name]:
                scores[group.name] = total
        return scores


def _sites(analysis: ChannelAnalysis, group: Group) -> Iterator[Site]:
    """Where the layers behind a group read it; all its activations if there are no such layers."""
    read = {(site.value, site.dim): site for _, site in _reads(analysis, group)}
    if read:
        yield from read.values()
        return
    for axis in group.axes:
        if axis.value.producer is not None:
            yield from _site(analysis, group, axis.value, axis.dim)


def _reads(analysis: ChannelAnalysis, group: Group) -> Iterator[tuple[Member, Site]]:
    """The weights that channels of a group are inputs of, each with the activation that it multiplies."""
    for member in weights(group, Role.IN, Role.NORMALIZED):
        for use in member.constant.uses:
            for value in use.node.inputs:
                if value.producer is not None and isinstance(value.type, TensorType):
                    for dim in range(value.type.rank):
                        yield from ((member, site) for site in _site(analysis, group, value, dim))


def _site(analysis: ChannelAnalysis, group: Group, value: Value, dim: int) -> Iterator[Site]:
    """The dim of a value with the channels of a group at its slots, if there are any and its size is known."""
    factors = analysis.tracker.values[value][dim]
    if not factors or not is_static(factors):
        return
    atoms = merged(factors).atoms
    if atoms is None:
        return
    for column in analysis.resolve(atoms).T:
        place = np.searchsorted(group.atoms, column)
        place[place == group.size] = 0
        channels = np.where(group.atoms[place] == column, place, -1)
        if (channels >= 0).any():
            yield Site(value, dim, channels)


def _measure(
    evidence: Evidence, sites: Iterable[Sequence[Site]], reduce: Reduction
) -> tuple[Measured, dict[tuple[Value, int], int]]:
    """Sum a reduction of each site over all batches; also the number of elements in each slot."""
    dims: dict[Value, dict[int, None]] = {}
    for found in sites:
        for site in found:
            dims.setdefault(site.value, {})[site.dim] = None
    sums: Measured = {}
    elements: dict[tuple[Value, int], int] = {}

    def see(value: Value, tensor: torch.Tensor) -> None:
        for dim in dims[value]:
            key = value, dim
            sums[key] = sums.get(key, 0.0) + reduce(tensor, dim)
            elements[key] = elements.get(key, 0) + tensor.numel() // max(tensor.shape[dim], 1)

    evidence.watch(list(dims), see)
    return sums, elements
