"""The loss that sensitivity is measured by: a function of the outputs, or of the outputs and the targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.utils import _pytree as pytree

from graphopt.errors import GraphOptError, InputError, unknown_name
from graphopt.ir import Graph, Slot
from graphopt.passes.pruning.criteria.batches import Batch

Loss = str | Callable[..., torch.Tensor]
"""The name of a loss, or `f(outputs)` or `f(outputs, targets)` that returns a number."""

NAMED: dict[str, Callable[..., torch.Tensor]] = {
    "cross-entropy": functional.cross_entropy,
    "mse": functional.mse_loss,
}
"""The losses that text can name; outputs and targets are single tensors."""


NO_TARGETS = (
    "the loss takes targets, and the data have none beside the model's inputs; give calibration=[(inputs, targets), …] "
    "as a data loader does, or a loss of the outputs alone, loss=f(outputs)"
)


def loss_function(loss: Any) -> Callable[..., torch.Tensor]:
    """Return the function that a loss is, or that its name means.

    Raises:
        UnknownNameError: no loss of that name; the message suggests near ones.
        GraphOptError: neither a name nor a function.
    """
    if isinstance(loss, str):
        if loss not in NAMED:
            raise unknown_name("loss", loss, NAMED, f"There are {', '.join(NAMED)}, and functions.")
        return NAMED[loss]
    if not callable(loss):
        raise GraphOptError(f"a loss is a function of outputs and targets, or one of {', '.join(NAMED)}, got {loss!r}")
    return loss


class Objective:
    """A loss over what the model returns.

    loss: see `Loss`. The outputs have the structure that the model returns; the targets are what of a batch is no
        input of the model, or the whole batch where all of it is.

    Raises:
        UnknownNameError: no loss of that name.
        GraphOptError: neither a name nor a function.
    """

    def __init__(self, loss: Loss) -> None:
        self.function = loss_function(loss)
        self._takes_targets = _required_arguments(self.function) > 1

    def __call__(self, graph: Graph, flat: list[Any], batch: Batch) -> torch.Tensor:
        """Return the loss as a tensor of one element.

        Raises:
            GraphOptError: the loss raised, or returned something else or NaN.
        """
        outputs = caller_outputs(graph, flat)
        try:
            value = self.function(outputs, batch.targets) if self._takes_targets else self.function(outputs)
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            if self._takes_targets and not batch.labelled:
                raise InputError(f"{NO_TARGETS} ({error})") from error
            raise InputError(f"the loss does not take the model's outputs and the batch's targets: {error}") from error
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            shown = f"shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise InputError(f"the loss must return a tensor with one number, got {shown}")
        if not bool(torch.isfinite(value)):
            raise GraphOptError(f"the loss is {float(value.detach()):g}; scores would mean nothing")
        return value.reshape(())


def caller_outputs(graph: Graph, flat: list[Any]) -> Any:
    """Return a graph's outputs in the structure that the model returns."""
    outputs = flat[: len(graph.outputs)]
    signature = graph.signature
    if signature is None:
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
    leaves = [outputs[leaf.index] if isinstance(leaf, Slot) else leaf.value for leaf in signature.out_leaves]
    return pytree.tree_unflatten(leaves, signature.out_tree)


def _required_arguments(function: Callable[..., Any]) -> int:
    """The number of positional arguments that have no default; those of `forward` for a module."""
    target = function.forward if isinstance(function, torch.nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # a built-in that does not say
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
