"""What a method of decomposition is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from graphopt.passes.decomposition.factors import Factor
from graphopt.passes.decomposition.problem import Problem, Shape

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Approximation:
    """A layer of one group as a chain. notes: on how it was found, where that did not go smoothly."""

    chain: Sequence[Factor]
    notes: list[str] = field(default_factory=list)


def blank(*sizes: int) -> torch.Tensor:
    """A tensor without numbers."""
    return torch.empty(sizes, device="meta")


class Method(Protocol):
    """A method of decomposition.

    extra: a package that it needs besides.
    """

    name: str
    extra: str | None

    def why_not(self, shape: Shape) -> str | None:
        """Why a layer cannot be decomposed by it, or None."""
        ...

    def full(self, shape: Shape) -> Ranks:
        """The ranks at which the layer is reproduced."""
        ...

    def layout(self, shape: Shape, ranks: Ranks) -> list[Factor]:
        """The factors of a group without their numbers."""
        ...

    def errors(self, problems: Sequence[Problem], shape: Shape, wanted: Iterable[Ranks]) -> dict[Ranks, float]:
        """The relative squared error that ranks leave, over all groups; as estimated without making the chains."""
        ...

    def grid(self, problems: Sequence[Problem], shape: Shape, steps: Sequence[Sequence[int]]) -> list[Ranks]:
        """The ranks worth a look. steps: allowed ones for each rank."""
        ...

    def is_cheap(self, data: bool) -> bool:
        """Whether errors are known without making chains. data: whether Σ is given."""
        ...

    def evbmf(self, problem: Problem, shape: Shape) -> Ranks:
        """The ranks by empirical variational Bayes; 0 where all is noise."""
        ...

    def approximate(self, problem: Problem, shape: Shape, ranks: Ranks) -> Approximation:
        """The chain of given ranks."""
        ...
