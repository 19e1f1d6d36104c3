"""Small modules for operators that behave differently in training: they follow `module.training`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


class BatchNorm(torch.nn.Module):
    """y = (x - mean) / √(var + eps) · weight + bias, over all axes but the second.

    In eval mode, mean and var are the running statistics. In training they are the batch's, and the running
    statistics become `(1 - momentum)·running + momentum·batch` (with the unbiased variance), in place.
    """

    def __init__(self, momentum: float, eps: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps

    def forward(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        num_batches_tracked: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Normalize `x` [N, C, …]; the other tensors are [C]. `num_batches_tracked` counts training calls."""
        if self.training and num_batches_tracked is not None:
            num_batches_tracked.add_(1)
        return F.batch_norm(
            x, running_mean, running_var, weight, bias, self.training, momentum=self.momentum, eps=self.eps
        )

    def extra_repr(self) -> str:
        """The options, as `torch.nn` shows them."""
        return f"momentum={self.momentum}, eps={self.eps}"


class FollowTraining(torch.nn.Module):
    """Calls an operator with its training flags (`train` of dropout, LSTM, …) set to `self.training`."""

    def __init__(self, operator: Callable[..., Any], flags: tuple[str, ...]) -> None:
        super().__init__()
        self.operator = operator
        self.flags = flags

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the operator with the given arguments, all but the flags."""
        return self.operator(*args, **kwargs, **dict.fromkeys(self.flags, self.training))

    def extra_repr(self) -> str:
        """The operator and its flags."""
        return f"{self.operator}, {', '.join(self.flags)}"
