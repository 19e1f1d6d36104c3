"""The waterfall: what each step of a run contributed to the error of each output.

With r the reference, y_k an output after step k (y_0: of the original graph) and e_k = y_k − r, a step's contribution
is d_k = y_k − y_(k−1) (d_0 = e_0), so that e_K = Σ d_k. Contributions are vectors: they may cancel. Two numbers of a
step add up over the steps: its `change` ‖e_k‖/‖r‖ − ‖e_(k−1)‖/‖r‖, to the final error ‖e_K‖/‖r‖, and its `share`
⟨d_k, e_K⟩ / ‖e_K‖², to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from graphopt.debugging.attribution import ErrorStep, OutputStep
from graphopt.debugging.deviation import deviation
from graphopt.passmanager.compare import is_inexact, wide


@dataclass(frozen=True)
class StepOutputs:
    """The flat outputs after a step. kind, name, text: see `ErrorStep`."""

    kind: str
    name: str
    text: str
    outputs: list[Any]


def waterfall(reference: Sequence[Any], steps: Sequence[StepOutputs]) -> list[ErrorStep]:
    """Return a bar for each step; the first is the original graph."""
    columns = [_output_steps(want, [step.outputs[index] for step in steps]) for index, want in enumerate(reference)]
    return [
        ErrorStep(number, step.kind, step.name, step.text, tuple(column[number] for column in columns))
        for number, step in enumerate(steps)
    ]


def _output_steps(reference: Any, values: Sequence[Any]) -> list[OutputStep]:
    shares = _shares(reference, values)
    found: list[OutputStep] = []
    before: Any = reference
    for value, share in zip(values, shares):
        accumulated = deviation(value, reference)
        earlier = found[-1].accumulated.rms if found else 0.0
        found.append(OutputStep(deviation(value, before), accumulated, _difference(accumulated.rms, earlier), share))
        before = value
    return found


def _difference(after: float, before: float) -> float:
    return 0.0 if after == before else after - before  # inf − inf is no number


def _shares(reference: Any, values: Sequence[Any]) -> list[float]:
    """⟨d_k, e_K⟩ / ‖e_K‖² for each step, over the elements that are finite in every step."""
    if not all(_comparable(value, reference) for value in values):
        return [0.0] * len(values)
    errors = [_flat(value) - _flat(reference) for value in values]
    finite = torch.stack([error.isfinite() for error in errors]).all(0)
    errors = [error[finite] for error in errors]
    last = errors[-1]
    energy = torch.dot(last, last).item()
    if not energy:
        return [0.0] * len(values)
    contributions = [errors[0], *(b - a for a, b in pairwise(errors))]
    return [torch.dot(d, last).item() / energy for d in contributions]


def _flat(value: Any) -> torch.Tensor:
    return wide(value) if is_inexact(value) else torch.as_tensor(value).detach().reshape(-1).to("cpu", torch.float64)


def _comparable(value: Any, reference: Any) -> bool:
    if not isinstance(value, torch.Tensor | int | float | complex):
        return False
    return torch.as_tensor(value).shape == torch.as_tensor(reference).shape
