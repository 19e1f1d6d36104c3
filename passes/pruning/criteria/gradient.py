"""Criteria from derivatives of the loss, by autograd through the graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from graphopt.analysis.channels import Group, Member
from graphopt.ir import Value
from graphopt.passes.pruning.criteria.base import Scores, register_criterion
from graphopt.passes.pruning.criteria.evidence import Evidence, channel_sums, slot_sums, tensor_of, weights


@dataclass(frozen=True)
class _Sensitivity:
    """Sums a function of weight and gradient over the slices of a channel, and averages over batches or samples."""

    needs: ClassVar[Literal["nothing", "data", "loss"]] = "loss"
    name: ClassVar[str]
    by_sample: ClassVar[bool] = False

    def slots(self, weight: torch.Tensor, gradient: torch.Tensor, dim: int) -> np.ndarray:
        """What a batch says of each slot along a dim."""
        raise NotImplementedError

    def finish(self, channels: np.ndarray) -> np.ndarray:
        """What a batch says of each channel, from the sums over one member."""
        return channels

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the scores of all groups, from one backward pass a batch (or sample)."""
        members = {group.name: weights(group) for group in groups}
        found = {group.name: np.zeros(group.size) for group in groups}
        count = 0
        for gradients in evidence.gradients(_constants(members.values()), by_sample=self.by_sample):
            memo: dict[tuple[Value, int], np.ndarray] = {}
            for group in groups:
                for member in members[group.name]:
                    found[group.name] += self._part(member, gradients, memo, group.size)
            count += 1
        return {name: total / max(count, 1) for name, total in found.items()}

    def _part(
        self,
        member: Member,
        gradients: dict[Value, torch.Tensor],
        memo: dict[tuple[Value, int], np.ndarray],
        size: int,
    ) -> np.ndarray | float:
        gradient = gradients.get(member.constant)
        if gradient is None:
            return 0.0
        key = member.constant, member.dim
        if key not in memo:
            memo[key] = self.slots(tensor_of(member), gradient, member.dim)
        return self.finish(channel_sums(memo[key], member.channels, size))


@register_criterion("taylor")
@dataclass(frozen=True)
class Taylor(_Sensitivity):
    """|w·∂L/∂w|: how much the loss changes, to first order, when a slice w of the channel is set to zero.

    The product is that of the slice as a vector; it is taken for each batch, averaged over batches, and summed over
    the slices of the channel.
    """

    name: ClassVar[str] = "taylor"

    def slots(self, weight: torch.Tensor, gradient: torch.Tensor, dim: int) -> np.ndarray:
        """w·∂L/∂w of each slot."""
        return slot_sums(weight * gradient, dim)

    def finish(self, channels: np.ndarray) -> np.ndarray:
        """Without the sign."""
        return np.abs(channels)


@register_criterion("fisher")
@dataclass(frozen=True)
class Fisher(_Sensitivity):
    """½ Σ w² F_w, with F the diagonal of the Fisher information, the mean over samples of (∂L/∂w)².

    To second order the rise of the loss at a minimum when the slices of a channel are set to zero, with the Fisher
    information for the Hessian and its diagonal alone (optimal brain damage). One backward pass a sample.
    """

    name: ClassVar[str] = "fisher"
    by_sample: ClassVar[bool] = True

    def slots(self, weight: torch.Tensor, gradient: torch.Tensor, dim: int) -> np.ndarray:
        """½ w² (∂L/∂w)² summed over each slot."""
        return 0.5 * slot_sums((weight.double() * gradient).square(), dim)


def _constants(members: Iterable[Sequence[Member]]) -> list[Value]:
    return list(dict.fromkeys(m.constant for found in members for m in found))
