"""Batches of a loader: what of them the model takes, and what the loss compares with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.errors import GraphOptError, InputError


class LoaderBatch(NamedTuple):
    """The arguments of one call, and the target."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any


def read_batch(model: nn.Module, given: Any) -> LoaderBatch:
    """Split a batch, on the device of the model.

    A pair is (inputs, target); inputs that are a tuple or list are several arguments, a mapping names them. Anything
    else (a tensor, a mapping) is all inputs, and the target of a loss that takes one.
    """
    device = next((p.device for p in model.parameters()), None)
    if device is not None:
        given = pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, given)
    inputs, target = (given[0], given[1]) if isinstance(given, tuple | list) and len(given) == 2 else (given, given)
    if isinstance(inputs, Mapping):
        return LoaderBatch((), dict(inputs), target)
    return LoaderBatch(tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,), {}, target)


def call_model(model: Callable[..., Any], batch: LoaderBatch, title: str) -> Any:
    """Call the model on a batch.

    Raises:
        InputError: the batch does not fit; says which one it is and what it holds.
    """
    try:
        return model(*batch.args, **batch.kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError, KeyError, GraphOptError) as error:
        held = ", ".join([*map(_shown, batch.args), *(f"{k}={_shown(v)}" for k, v in batch.kwargs.items())])
        raise InputError(f"{title} ({held}) does not fit the model: {error}") from error


def batch_size(batch: LoaderBatch) -> int:
    """The size of the first dim of the first input."""
    leaves = pytree.tree_leaves((batch.args, batch.kwargs))
    return next((len(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.dim()), 1)


def _shown(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
