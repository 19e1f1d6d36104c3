"""How weights are scored: the lowest scores go first.

    magnitude    |w|
    lamp         w² over the sum of all squares in the layer that are not smaller (Lee et al., 2021); for global ranking
    random       uniform
    taylor       |w · ∂L/∂w|, what removing w changes to first order; L is the mean loss of the calibration data
    wanda        |w| · ‖x‖₂ of the input that it reads, compared within each row (Sun et al., 2023)

A function is a method too: `f(weight, inputs)` of the weight's matrices [groups, rows, columns] and the norms ‖x‖₂ of
what its columns read, [groups, columns] (None without calibration data), to scores of the weight's form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from graphopt.errors import GraphOptError, unknown_name
from graphopt.passes.weight_pruning.patterns import Scope

Scores = Callable[["Evidence"], torch.Tensor]


@dataclass
class Evidence:
    """What is known of one layer.

    weight: its matrices [groups, rows, columns]. norms: ‖x‖₂ of each column's input, [groups, columns].
    gradient: of the mean loss, in the weight's form.
    """

    weight: torch.Tensor
    norms: torch.Tensor | None = None
    gradient: torch.Tensor | None = None
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Method:
    """scores: of a layer. needs: "nothing", "inputs" or "gradients". scope: who competes unless it is said."""

    scores: Scores
    needs: str = "nothing"
    scope: Scope = "layer"


def _magnitude(evidence: Evidence) -> torch.Tensor:
    return evidence.weight.abs()


def _lamp(evidence: Evidence) -> torch.Tensor:
    squares = evidence.weight.double().square().flatten()
    ordered, order = squares.sort(stable=True)
    not_smaller = ordered.flip(0).cumsum(0).flip(0).clamp(min=torch.finfo(torch.float64).tiny)
    scores = torch.empty_like(squares)
    scores[order] = ordered / not_smaller
    return scores.view_as(evidence.weight)


def _random(evidence: Evidence) -> torch.Tensor:
    return torch.rand(evidence.weight.shape, generator=evidence.generator, dtype=torch.float64).to(
        evidence.weight.device
    )


def _taylor(evidence: Evidence) -> torch.Tensor:
    assert evidence.gradient is not None
    return (evidence.weight * evidence.gradient).abs()


def _wanda(evidence: Evidence) -> torch.Tensor:
    assert evidence.norms is not None
    return evidence.weight.abs() * evidence.norms[:, None]


METHODS: dict[str, Method] = {
    "magnitude": Method(_magnitude),
    "lamp": Method(_lamp, scope="global"),
    "random": Method(_random),
    "taylor": Method(_taylor, needs="gradients", scope="global"),
    "wanda": Method(_wanda, needs="inputs", scope="row"),
}
SPARSEGPT = "sparsegpt"


def get_method(method: str | Callable[..., torch.Tensor], *, data: bool) -> Method:
    """Return a method by name, or made of a function; `data` says whether there is calibration data for the latter.

    Raises:
        UnknownNameError: no such method.
    """
    if callable(method):
        function = method

        def scores(evidence: Evidence) -> torch.Tensor:
            return function(evidence.weight, evidence.norms)

        return Method(scores, needs="inputs" if data else "nothing")
    if method not in METHODS:
        raise unknown_name("pruning method", method, [*METHODS, SPARSEGPT])
    return METHODS[method]


def checked(scores: torch.Tensor, evidence: Evidence, name: str) -> torch.Tensor:
    """Hold scores to their form.

    Raises:
        GraphOptError: another shape, or NaN; the message names the layer.
    """
    if not isinstance(scores, torch.Tensor) or scores.shape != evidence.weight.shape:
        shown = list(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise GraphOptError(f"{name}: scores must have the shape {list(evidence.weight.shape)}, got {shown}")
    if bool(scores.isnan().any()):
        raise GraphOptError(f"{name}: a score is NaN; look for NaN or infinity in weights, calibration data and loss")
    return scores
