"""Statistics of batch norms, estimated anew: after pruning, what reaches a batch norm has another distribution."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import torch
from torch import nn

from graphopt.compiled import CompiledModel
from graphopt.errors import InputError
from graphopt.loaders import batch_size, call_model, read_batch


def reestimate_batch_norm(model: nn.Module, loader: Iterable[Any], *, batches: int | None = None) -> int:
    """Set the running mean and variance of every batch norm to their averages over a loader's batches.

    Each batch counts by its size. Everything but the batch norms runs in eval mode; weights are left alone.

    loader: batches as for `graphopt.finetune`. batches: how many of them to use; all if None.

    Returns:
        The number of batch norms.

    Raises:
        InputError: there is no batch, or one does not fit the model.

    >>> model = nn.BatchNorm1d(1)
    >>> reestimate_batch_norm(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
    1
    >>> float(model.running_mean), float(model.running_var)
    (4.0, 2.0)
    """
    given_batches = iter(loader)
    first = list(islice(given_batches, 1))
    if not first:
        raise InputError("batch norms cannot be estimated anew: the loader is empty, or an iterator that was used up")
    norms = _batch_norms(model, first[0])
    if not norms:
        return 0
    seen = 0
    with _estimating(model, norms), torch.no_grad():
        for number, given in enumerate(islice(chain(first, given_batches), batches)):
            batch = read_batch(model, given)
            size = batch_size(batch)
            seen += size
            for norm in norms:
                norm.momentum = size / seen  # type: ignore[assignment]
            call_model(model, batch, f"batch {number} of the loader")
    return len(norms)


def _batch_norms(model: nn.Module, given: Any) -> list[nn.Module]:
    """The modules that keep statistics of batches: PyTorch's own, and those of emitted FX modules.

    given: a batch. A model that is captured anew for each mode shows the modules that run in eval mode after a call.
    """
    from graphopt.backends.fx.leaves import BatchNorm

    if isinstance(model, CompiledModel):
        training = model.training
        with torch.no_grad():
            call_model(model.eval(), read_batch(model, given), "batch 0 of the loader")
        model.train(training)
    roots = [model, model.module] if isinstance(model, CompiledModel) else [model]
    modules = dict.fromkeys(m for root in roots for m in root.modules())
    return [
        m
        for m in modules
        if isinstance(m, BatchNorm) or (isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None)
    ]


@contextmanager
def _estimating(model: nn.Module, norms: list[nn.Module]) -> Iterator[None]:
    """Batch norms in training mode, everything else in eval mode; all put back at the end."""
    modules = dict.fromkeys([model, *model.modules(), *norms])
    modes = [(module, module.training) for module in modules]
    momenta = [(norm, norm.momentum) for norm in norms]
    try:
        model.eval()
        for norm in norms:
            norm.training = True
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, momentum in momenta:
            norm.momentum = momentum
