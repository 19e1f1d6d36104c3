"""Criteria that look at the stored tensors alone: norms, batch-norm scales, distances, chance.

All sum over every parameter slice that goes with a channel: its filter and bias, the norm's weight and bias, and what
the next layers multiply it by.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from graphopt.analysis.channels import Group, Member, Role
from graphopt.passes.pruning.criteria.base import GroupCriterion, register_criterion
from graphopt.passes.pruning.criteria.evidence import Evidence, channel_sums, slot_sums, tensor_of, weights


def _summed(group: Group, members: list[Member], power: int) -> np.ndarray:
    """Σ|w|ᵖ over the slices of each channel."""
    total = np.zeros(group.size)
    for member in members:
        tensor = tensor_of(member)
        tensor = tensor.float() if tensor.element_size() < 4 else tensor
        powers = slot_sums(tensor.abs() if power == 1 else tensor.square(), member.dim)
        total += channel_sums(powers, member.channels, group.size)
    return total


@register_criterion("l1")
@dataclass(frozen=True)
class L1(GroupCriterion):
    """Σ|w| over the slices of a channel."""

    def score(self, group: Group, evidence: Evidence) -> np.ndarray | None:
        """The L1 norm of each channel."""
        return _summed(group, weights(group), 1)


@register_criterion("l2")
@dataclass(frozen=True)
class L2(GroupCriterion):
    """√Σw² over the slices of a channel."""

    def score(self, group: Group, evidence: Evidence) -> np.ndarray | None:
        """The L2 norm of each channel."""
        return np.sqrt(_summed(group, weights(group), 2))


@register_criterion("batch-norm-scale")
@dataclass(frozen=True)
class BatchNormScale(GroupCriterion):
    """|γ| of the batch norms on a channel (network slimming). A group without batch norm is left alone."""

    def score(self, group: Group, evidence: Evidence) -> np.ndarray | None:
        """The sum of |γ| of each channel."""
        scales = [m for m in weights(group) if _is_batch_norm_weight(m)]
        return _summed(group, scales, 1) if scales else None


def _is_batch_norm_weight(member: Member) -> bool:
    return any(
        "batch_norm" in use.node.op.base and use.node.operand("weight") is member.constant
        for use in member.constant.uses
        if use.node.results
    )


@register_criterion("fpgm")
@dataclass(frozen=True)
class FPGM(GroupCriterion):
    """Σⱼ‖wₖ − wⱼ‖₂ over all filters j of the layer: a filter near the geometric median can be stood in for by others.

    Quadratic in the filters of a layer.
    """

    def score(self, group: Group, evidence: Evidence) -> np.ndarray | None:
        """The sum of each filter's distances to the others, over the layers that make the channel."""
        filters = [m for m in weights(group, Role.OUT) if tensor_of(m).dim() > 1]
        if not filters:
            return None
        total = np.zeros(group.size)
        for member in filters:
            rows = tensor_of(member).movedim(member.dim, 0).flatten(1).double()
            distances = torch.cdist(rows, rows).sum(1).cpu().numpy()
            total += channel_sums(distances, member.channels, group.size)
        return total


@register_criterion("random")
@dataclass(frozen=True)
class Random(GroupCriterion):
    """Uniform numbers, the same for the same seed and name of a group."""

    seed: int = 0

    def score(self, group: Group, evidence: Evidence) -> np.ndarray | None:
        """Numbers between 0 and 1."""
        return np.random.default_rng((self.seed, zlib.crc32(group.name.encode()))).random(group.size)
