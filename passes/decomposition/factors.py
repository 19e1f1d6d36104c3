"""Chains of factors, and the dense weight that a chain stands for.

A factor is a linear layer or convolution without bias. In a chain each spatial axis of the layer belongs to one factor,
which takes the layer's stride, padding and dilation along it; along all others its kernel has size 1. So the chain of
F₁ and F₂ is the convolution with

    W[o, i, k₁ k₂] = Σ_m F₂[o, m, k₂] F₁[m, i, k₁]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Factor:
    """weight: [out, in / groups, *kernel]; of a transposed convolution [in, out / groups, *kernel].

    axes: the spatial axes along which it is what the layer was.
    """

    weight: torch.Tensor
    groups: int = 1
    axes: tuple[int, ...] = ()
    transposed: bool = False

    @property
    def kernel(self) -> tuple[int, ...]:
        """The sizes of the kernel."""
        return tuple(self.weight.shape[2:])


Chain = Sequence[Factor]


def dense(chain: Chain) -> torch.Tensor:
    """The weight that a chain stands for, [out, in, *kernel]; of a transposed convolution [out · kernel, in].

    >>> chain = [Factor(torch.ones(2, 3, 5, 1)), Factor(torch.ones(4, 2, 1, 5))]
    >>> dense(chain).shape
    torch.Size([4, 3, 5, 5])
    """
    found = ungrouped(chain[0])
    for factor in chain[1:]:
        if factor.transposed:
            return factor.weight.flatten(1).t() @ found.flatten(1)
        found = composed(found, ungrouped(factor))
    return found


def ungrouped(factor: Factor) -> torch.Tensor:
    """The weight with the zeros between groups written out."""
    weight, groups = factor.weight, factor.groups
    if groups == 1:
        return weight
    out, each = weight.shape[0] // groups, weight.shape[1]
    found = weight.new_zeros(weight.shape[0], each * groups, *factor.kernel)
    for g in range(groups):
        found[g * out : (g + 1) * out, g * each : (g + 1) * each] = weight[g * out : (g + 1) * out]
    return found


def composed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The weight of one layer after another, [middle, in, *k₁] and [out, middle, *k₂]; along each axis one k is 1."""
    one, two = first.shape[2:], second.shape[2:]
    if not one:
        return second @ first
    product = torch.tensordot(second.flatten(2), first.flatten(2), dims=([1], [0]))  # [out, k₂, in, k₁]
    rank = len(one)
    split = product.reshape(second.shape[0], *two, first.shape[1], *one)
    pairs = [axis for j in range(rank) for axis in (1 + j, 2 + rank + j)]
    return split.permute(0, 1 + rank, *pairs).reshape(
        second.shape[0], first.shape[1], *(a * b for a, b in zip(one, two))
    )


def joined(chains: Sequence[Chain]) -> list[Factor]:
    """The chain of a grouped layer from those of its groups."""
    return [
        replace(group[0], weight=torch.cat([f.weight for f in group]), groups=sum(f.groups for f in group))
        for group in zip(*chains)
    ]


def balanced(chain: Chain) -> list[Factor]:
    """The same chain with what each inner channel is scaled by shared between the factors that make and read it.

    Factors train best, and quantize best, if their scales are alike. Channels that are zero on a side stay as they are.
    """
    weights = [factor.weight.clone() for factor in chain]
    for index in range(len(chain) - 1):
        reader = chain[index + 1]
        made = weights[index].flatten(1).norm(dim=1)
        read = _read_norms(weights[index + 1], reader)
        scale = torch.where((made > 0) & (read > 0), (read / made).sqrt(), torch.ones_like(made))
        weights[index] *= scale.reshape(-1, *[1] * (weights[index].dim() - 1))
        weights[index + 1] /= _input_scale(scale, weights[index + 1], reader)
    return [replace(factor, weight=weight) for factor, weight in zip(chain, weights)]


def _read_norms(weight: torch.Tensor, reader: Factor) -> torch.Tensor:
    """The norm of what reads each input channel."""
    if reader.transposed:
        return weight.flatten(1).norm(dim=1)
    groups = reader.groups
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).norm(dim=(1, 3)).flatten()


def _input_scale(scale: torch.Tensor, weight: torch.Tensor, reader: Factor) -> torch.Tensor:
    if reader.transposed:
        return scale.reshape(-1, *[1] * (weight.dim() - 1))
    rows = scale.reshape(reader.groups, -1).repeat_interleave(weight.shape[0] // reader.groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def parameters(chain: Chain) -> int:
    """The number of weights."""
    return sum(factor.weight.numel() for factor in chain)
