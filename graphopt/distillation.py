"""Knowledge distillation: a pruned model learns what its original says (Hinton et al., 2015)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from graphopt.errors import GraphOptError


def logits_of(outputs: Any) -> torch.Tensor:
    """The logits among a model's outputs: the tensor itself, what is called `logits`, or the first element.

    Raises:
        GraphOptError: none of these is a tensor.
    """
    found = outputs
    if isinstance(outputs, Mapping) and "logits" in outputs:
        found = outputs["logits"]
    elif not isinstance(outputs, torch.Tensor):
        found = getattr(outputs, "logits", None)
        if found is None and isinstance(outputs, tuple | list) and outputs:
            found = outputs[0]
    if not isinstance(found, torch.Tensor):
        raise GraphOptError(f"no logits among outputs of type {type(outputs).__name__}; give Distillation(logits=...)")
    return found


@dataclass(frozen=True)
class Distillation:
    """How a teacher's logits t enter the loss of the logits s:

        (1 − α) L + α T² KL(softmax(t / T) ‖ softmax(s / T)),

    the divergence being the mean over all positions. T² keeps the scale of its gradient whatever the temperature.

    alpha: α, between 0 and 1. temperature: T. dim: the axis of the classes. logits: finds them among the outputs.

    >>> z = torch.tensor([[1.0, 2.0]])
    >>> float(Distillation(alpha=1.0)(torch.tensor(5.0), z, z))
    0.0
    """

    alpha: float = 0.7
    temperature: float = 4.0
    dim: int = -1
    logits: Callable[[Any], torch.Tensor] = logits_of

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or self.temperature <= 0:
            raise GraphOptError(
                f"alpha must be between 0 and 1 and temperature positive, got {self.alpha} and {self.temperature}"
            )

    def __call__(self, loss: torch.Tensor, outputs: Any, taught: Any) -> torch.Tensor:
        """Return the loss with the teacher's part."""
        student = F.log_softmax(self.logits(outputs) / self.temperature, self.dim)
        teacher = F.log_softmax(self.logits(taught).detach() / self.temperature, self.dim)
        divergence = (teacher.exp() * (teacher - student)).sum(self.dim).mean()
        return (1 - self.alpha) * loss + self.alpha * self.temperature**2 * divergence
