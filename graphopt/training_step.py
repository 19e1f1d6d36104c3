"""One step of training: the loss with all its terms, and the optimizer."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from graphopt.distillation import Distillation
from graphopt.errors import GraphOptError, InputError, unknown_name
from graphopt.loaders import LoaderBatch, batch_size, call_model, read_batch

Loss = Callable[..., torch.Tensor]
"""`loss(outputs, target)` or `loss(outputs)`: the mean over a batch."""

Schedule = Callable[[float], float]
"""The factor of the learning rate by how much of the training is done, 0 to 1."""


class Regularizer(Protocol):
    """A term of the loss. Its method `start_epoch(model, number)`, if it has one, is called before each epoch."""

    def __call__(self, model: nn.Module) -> torch.Tensor:
        """Return the term, a tensor of one element."""
        ...


class Step:
    """Trains on one batch at a time. See `graphopt.finetune` for the meaning of its parts."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss | str,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        regularizers: tuple[Regularizer, ...],
        teacher: Callable[..., Any] | None,
        distillation: Distillation,
        clip: float | None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.regularizers = regularizers
        self.teacher = teacher
        self.distillation = distillation
        self.clip = clip
        self._loss = loss_of(loss)
        self._takes_target = _required_arguments(self._loss) > 1
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if isinstance(teacher, nn.Module):
            teacher.eval()

    @property
    def rate(self) -> float:
        """The learning rate of the first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def start_epoch(self, number: int) -> None:
        """Go into training mode, and tell the regularizers that want to know."""
        self.model.train()
        for regularizer in self.regularizers:
            start = getattr(regularizer, "start_epoch", None)
            if start is not None:
                start(self.model, number)

    def __call__(self, given: Any, title: str, progress: float) -> tuple[int, float]:
        """Train on a batch. Returns its size, and the loss.

        Raises:
            InputError: the batch does not fit.
            GraphOptError: the loss is no number, or NaN.
        """
        for group, rate in zip(self.optimizer.param_groups, self._rates):
            group["lr"] = rate * self.schedule(progress)
        batch = read_batch(self.model, given)
        outputs = call_model(self.model, batch, title)
        value = self._value(outputs, batch, title)
        if self.teacher is not None:
            with torch.no_grad():
                taught = call_model(self.teacher, batch, f"{title}, for the teacher,")
            value = self.distillation(value, outputs, taught)
        for regularizer in self.regularizers:
            value = value + regularizer(self.model)
        number = float(value.detach())
        if not math.isfinite(number):
            raise GraphOptError(f"the loss is {number} at {title}; lower lr or clip gradients, and look at the data")
        self._descend(value)
        return batch_size(batch), number

    def mean_loss(self, loader: Iterable[Any]) -> float:
        """The mean loss over all samples, without other terms."""
        total, seen = 0.0, 0
        for number, given in enumerate(loader):
            batch = read_batch(self.model, given)
            title = f"batch {number} of the validation"
            value = self._value(call_model(self.model, batch, title), batch, title)
            size = batch_size(batch)
            total, seen = total + size * float(value), seen + size
        if not seen:
            raise InputError("the validation loader is empty, or an iterator that was used up")
        return total / seen

    def _value(self, outputs: Any, batch: LoaderBatch, title: str) -> torch.Tensor:
        try:
            value = self._loss(outputs, batch.target) if self._takes_target else self._loss(outputs)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            raise InputError(f"the loss does not take the outputs and the target of {title}: {error}") from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            shown = f"shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise GraphOptError(f"the loss must return a tensor with one number, got {shown}")
        return value.reshape(())

    def _descend(self, value: torch.Tensor) -> None:
        self.optimizer.zero_grad()
        value.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


def make_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None,
    lr: float,
) -> torch.optim.Optimizer:
    """Return the optimizer that was given, or make one.

    Raises:
        GraphOptError: it is none, or has none of the model's parameters.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not any(id(parameter) in held for parameter in model.parameters()):
            raise GraphOptError(
                "the optimizer has none of the model's parameters; make it of those of the pruned model, or give a "
                "function such as lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            )
        return optimizer
    parameters = [p for p in model.parameters() if p.requires_grad]
    if optimizer is None:
        return torch.optim.Adam(parameters, lr=lr)
    made = optimizer(parameters) if callable(optimizer) else optimizer
    if not isinstance(made, torch.optim.Optimizer):
        raise GraphOptError(f"optimizer takes an optimizer, or a function of parameters that makes one, got {made!r}")
    return made


def loss_of(loss: Loss | str) -> Loss:
    """Return the function that a loss is, or that its name means.

    Raises:
        UnknownNameError: no loss of that name; the message suggests near ones.
        GraphOptError: neither a name nor a function.
    """
    from graphopt.passes.pruning.criteria.objective import loss_function  # imports passes; `import graphopt` is quick

    return loss_function(loss)


def schedule_of(schedule: str | Schedule) -> Schedule:
    """Return a schedule by name.

    Raises:
        UnknownNameError: none of that name.
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise unknown_name("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]


def _one_cycle(progress: float, warm_up: float = 0.3, least: float = 0.04) -> float:
    """From `least` up to 1, and down to 0, both along half a cosine."""
    if progress < warm_up:
        return least + (1 - least) * 0.5 * (1 - math.cos(math.pi * progress / warm_up))
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


SCHEDULES: dict[str, Schedule] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "one-cycle": _one_cycle,
}


def _required_arguments(loss: Loss) -> int:
    """The number of positional arguments without a default; those of `forward` for a module."""
    target = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # a built-in that does not say
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
