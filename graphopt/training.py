"""Fine-tuning: a plain training loop with what a model needs after pruning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from graphopt.batch_norm import reestimate_batch_norm
from graphopt.distillation import Distillation
from graphopt.errors import GraphOptError, InputError
from graphopt.state import named_tensors
from graphopt.training_progress import Progress
from graphopt.training_step import Loss, Regularizer, Schedule, Step, make_optimizer, schedule_of


@dataclass(frozen=True)
class Epoch:
    """One epoch. loss: the mean over its samples, with all terms. score: of the validation, if there is one.

    rate: the learning rate of the last step.
    """

    number: int
    loss: float
    score: float | None
    rate: float
    seconds: float


@dataclass
class History:
    """What happened in training.

    best: the number of the epoch whose weights the model has now: the best by validation, else the last.
    stopped_early: the score did not get better for `patience` epochs. batch_norms: how many were estimated anew.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    stopped_early: bool = False
    batch_norms: int = 0
    seconds: float = 0.0

    @property
    def losses(self) -> list[float]:
        """The mean loss of each epoch."""
        return [epoch.loss for epoch in self.epochs]

    @property
    def scores(self) -> list[float]:
        """The validation score of each epoch."""
        return [epoch.score for epoch in self.epochs if epoch.score is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return asdict(self)


def finetune(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Loss | str,
    epochs: int = 1,
    *,
    lr: float = 1e-3,
    optimizer: torch.optim.Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None = None,
    schedule: str | Schedule = "cosine",
    regularizers: Sequence[Regularizer] = (),
    teacher: Callable[..., Any] | None = None,
    distillation: Distillation | None = None,
    validation: Iterable[Any] | Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    clip: float | None = None,
    reestimate: bool = True,
    progress: bool | None = None,
) -> History:
    """Train a model in place, and leave it in eval mode.

    model: a module that trains: one of PyTorch's, or compiled with `target="fx"`. Masks hold while it trains.
    loader: batches, read once an epoch. A pair is (inputs, target); several inputs are a tuple, or a mapping of names.
    loss: `loss(outputs, target)` or `loss(outputs)`, the mean over a batch; or "cross-entropy" or "mse".
    lr: the highest learning rate of the default optimizer, Adam.
    optimizer: one that has the model's parameters, or a function that makes one of them.
    schedule: "constant", "cosine", "linear", "one-cycle", or the factor of the rate by progress (0 to 1).
    regularizers: terms to add to the loss; see `graphopt.regularizers`.
    teacher: a model, as a rule the unpruned one, whose logits are learned from too; `distillation` says how.
    validation: a loader, to score the mean loss (lower is better), or a function of the model (higher is better). The
        model ends with the weights of the epoch that scored best.
    patience: stop after so many epochs without a better score.
    clip: the largest norm of all gradients together.
    reestimate: whether to estimate the statistics of batch norms anew at the end; where that makes the score of the
        validation worse, it is undone.
    progress: whether to show a progress bar; by default on a terminal.

    Returns:
        The history, one entry an epoch.

    Raises:
        InputError: an empty loader, or a batch that does not fit the model.
        UnknownNameError: no loss or schedule of that name.
        GraphOptError: an argument of another kind, nothing to train, an engine target, a loss that is no number or
            becomes NaN. Whatever is raised, the model has the weights that it had before.

    >>> from graphopt import finetune
    >>> model = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 16)[:, None]
    >>> history = finetune(model, [(x, 3 * x)], nn.functional.mse_loss, epochs=200, lr=0.1)
    >>> len(history.epochs), history.losses[-1] < 1e-3
    (200, True)
    """
    _check_kinds(model, loader, regularizers, teacher, validation)
    _check(model, epochs, lr, patience, validation)
    start = time.perf_counter()
    with _all_or_nothing(model):
        step = Step(
            model,
            loss,
            make_optimizer(model, optimizer, lr),
            schedule_of(schedule),
            tuple(regularizers),
            teacher,
            distillation or Distillation(),
            clip,
        )
        judge = _judge(step, validation)
        with torch.enable_grad(), Progress(epochs, shown=progress) as bar:
            history = _train(step, loader, epochs, judge, patience, bar)
        if reestimate:
            history.batch_norms = _reestimated(model, loader, judge)
    history.seconds = time.perf_counter() - start
    return history


Judge = Callable[[], tuple[float, float]]
"""Returns the score, and what to compare: the higher the better."""


def _train(
    step: Step, loader: Iterable[Any], epochs: int, judge: Judge | None, patience: int | None, bar: Progress
) -> History:
    history, best = History(), _Best()
    batches = len(loader) if isinstance(loader, Sized) else None
    for number in range(1, epochs + 1):
        start, count, seen, total = time.perf_counter(), 0, 0, 0.0
        step.start_epoch(number)
        for count, given in enumerate(loader, 1):
            done = number - 1 + (count - 1) / batches if batches else number - 1
            size, value = step(given, f"batch {count - 1} of epoch {number}", min(done / epochs, 1.0))
            seen, total = seen + size, total + size * value
            bar.batch(number, count, batches, total / seen)
        if not count:
            raise InputError(_EMPTY if number == 1 else _USED_UP)
        batches = count
        score, merit = (None, None) if judge is None else judge()
        history.epochs.append(Epoch(number, total / seen, score, step.rate, time.perf_counter() - start))
        bar.epoch(number, score)
        if merit is not None:
            best.offer(merit, number, step.model)
            if patience is not None and number - best.number >= patience:
                history.stopped_early = number < epochs
                break
    history.best = best.number or len(history.epochs)
    if best.number not in (0, len(history.epochs)):
        _restore(step.model, best.state)
    step.model.eval()
    return history


_EMPTY = "the loader is empty: it gave no batch to train on"
_USED_UP = "the loader was used up by the first epoch; give a list or a DataLoader, not an iterator"


class _Best:
    """The weights with the highest merit so far."""

    def __init__(self) -> None:
        self.number = 0
        self.merit = 0.0
        self.state: dict[str, torch.Tensor] = {}

    def offer(self, merit: float, number: int, model: nn.Module) -> None:
        """Take the model's weights if they are better."""
        if not self.number or merit > self.merit:
            self.merit, self.number, self.state = merit, number, _snapshot(model)


def _judge(step: Step, validation: Iterable[Any] | Callable[[nn.Module], float] | None) -> Judge | None:
    if validation is None:
        return None

    def judge() -> tuple[float, float]:
        step.model.eval()
        with torch.no_grad():
            if callable(validation):
                score = float(validation(step.model))
                return score, score
            score = step.mean_loss(validation)
            return score, -score

    return judge


def _reestimated(model: nn.Module, loader: Iterable[Any], judge: Judge | None) -> int:
    """Estimate batch norms anew, unless the score says that the old statistics are better."""
    before, state = (None, {}) if judge is None else (judge()[1], _snapshot(model))
    count = reestimate_batch_norm(model, loader) if iter(loader) is not loader else 0
    if judge is not None and before is not None and count and judge()[1] < before:
        _restore(model, state)
        return 0
    return count


def _check_kinds(model: Any, loader: Any, regularizers: Any, teacher: Any, validation: Any) -> None:
    if not isinstance(model, nn.Module):
        raise GraphOptError(f"finetune trains an nn.Module, got {type(model).__name__}")
    if not isinstance(loader, Iterable):
        raise GraphOptError(f"loader takes batches: a list of (inputs, target) or a data loader, got {loader!r}")
    if not isinstance(regularizers, Iterable) or not all(map(callable, regularizers)):
        raise GraphOptError(f"regularizers takes functions of the model, as [l1(1e-5)], got {regularizers!r}")
    if teacher is not None and not callable(teacher):
        raise GraphOptError(f"teacher takes a model, got {teacher!r}")
    if validation is not None and not callable(validation) and not isinstance(validation, Iterable):
        raise GraphOptError(f"validation takes a loader, or a function of the model, got {validation!r}")


def _check(model: nn.Module, epochs: int, lr: float, patience: int | None, validation: Any) -> None:
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise GraphOptError(f"epochs must be a whole number of at least 1, got {epochs!r}")
    if not isinstance(lr, int | float) or not lr > 0:
        raise GraphOptError(f"lr must be positive, got {lr!r}")
    if patience is not None and (not isinstance(patience, int) or patience < 1 or validation is None):
        raise GraphOptError(
            "patience is at least 1, and needs validation to look at: a loader, or a function of the model"
        )
    model.train()  # an engine target refuses here, and says what to do
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise GraphOptError("the model has no parameter that requires a gradient, so there is nothing to train")


@contextmanager
def _all_or_nothing(model: nn.Module) -> Iterator[None]:
    """Put the weights back if anything is raised."""
    state = _snapshot(model)
    try:
        yield
    except BaseException:
        _restore(model, state)
        model.eval()
        raise


def _snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def _restore(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            if name in state:
                tensor.copy_(state[name])
