"""Making the chains of what was chosen, and what they are like."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from graphopt.errors import GraphOptError
from graphopt.passes.decomposition.covariances import Inputs
from graphopt.passes.decomposition.emitting import operands
from graphopt.passes.decomposition.factors import Factor, balanced, dense, joined
from graphopt.passes.decomposition.methods import METHODS
from graphopt.passes.decomposition.methods.base import Approximation
from graphopt.passes.decomposition.options import Option, steps, work
from graphopt.passes.decomposition.problem import Problem, as_matrix
from graphopt.passes.decomposition.sites import Site


@dataclass
class Made:
    """A layer's chain. option: with the method that it was made by in the end. shift: of its bias. errors: relative, of
    the output and of the weight."""

    option: Option
    chain: list[Factor]
    shift: torch.Tensor | None
    error: float
    weight_error: float
    notes: list[str] = field(default_factory=list)


def problems_of(site: Site, inputs: Inputs | None, centred: bool) -> list[Problem]:
    """What is to be decomposed, one for each group. centred: the bias makes up for means."""
    weights = site.weights()
    if inputs is None:
        return [Problem(weight) for weight in weights]
    return [Problem(weight, inputs.about(g, centred)) for g, weight in enumerate(weights)]


def can_shift(site: Site) -> bool:
    """Whether biases may make up for means: they are stored, or there is none yet, and all positions have one mean."""
    if site.shape.kind in ("embedding", "transposed"):
        return False
    biases = [operands(site, node)[1] for node in site.nodes]
    return all(bias is None or bias.constant is not None for bias in biases)


def make(site: Site, option: Option, inputs: Inputs | None, correct: bool) -> Made:
    """The chain of an option. correct: biases by the mean error.

    A method that fails in spite of all is replaced by the SVD of no greater cost.

    Raises:
        GraphOptError: it failed, and there is no such SVD.
    """
    centred = correct and inputs is not None and can_shift(site)
    problems = problems_of(site, inputs, centred)
    notes: list[str] = []
    try:
        found = _approximations(site, option, problems)
    except GraphOptError as error:
        option = _instead(site, option, error)
        notes.append(f"{site.name}: {error}; the SVD of rank {option.ranks[0]} takes its place")
        found = _approximations(site, option, problems)
    chains = [balanced(one.chain) for one in found]
    weights = [dense(chain) for chain in chains]
    shift = None
    if centred and inputs is not None:
        lost = [problem.matrix - as_matrix(weight) for problem, weight in zip(problems, weights)]
        shift = torch.cat([matrix @ mean for matrix, mean in zip(lost, inputs.mean)])
    notes += [f"{site.name}: {note}" for one in found for note in one.notes]
    plain = [Problem(problem.weight) for problem in problems]
    dtype = site.layer.tensor.dtype
    chain = [replace(factor, weight=factor.weight.to(dtype)) for factor in joined(chains)]
    return Made(option, chain, shift, _error(problems, weights), _error(plain, weights), notes)


def _approximations(site: Site, option: Option, problems: list[Problem]) -> list[Approximation]:
    method = METHODS[option.method]
    return [method.approximate(problem, site.shape, option.ranks) for problem in problems]


def _instead(site: Site, option: Option, error: GraphOptError) -> Option:
    svd = METHODS["svd"]
    for rank in reversed(steps(svd.full(site.shape)[0], 1)):
        found = work(site, svd, (rank,))
        if found.macs <= option.work.macs and found.parameters <= option.work.parameters:
            return Option(svd.name, (rank,), option.error, found)
    raise error


def _error(problems: list[Problem], weights: list[torch.Tensor]) -> float:
    whole = sum(problem.energy for problem in problems)
    lost = sum(p.error(weight) * (p.energy or 1.0) for p, weight in zip(problems, weights))
    return math.sqrt(max(lost / (whole or 1.0), 0.0))
