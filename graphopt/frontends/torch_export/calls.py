"""How a model is called: its arguments by name, and names of their leaves for messages."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import CaptureError
from graphopt.ir import Signature

_PLAIN = (type(None), bool, int, float, str)


def named_arguments(model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the parameter names of `forward`, in the order of the signature.

    Raises:
        CaptureError: the arguments don't fit the signature.
    """
    try:
        signature = inspect.signature(model.forward)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        raise CaptureError(
            f"the example inputs don't fit {type(model).__name__}.forward: {error}; "
            "pass args as a tuple and the rest as kwargs, as in a call of the model"
        ) from error
    return dict(bound.arguments)


def with_parameters(signature: Signature | None, model: torch.nn.Module) -> Signature | None:
    """Add to a calling convention how the original takes its arguments."""
    if signature is None:
        return None
    parameters = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return replace(
        signature,
        parameters=tuple(p.name for p in parameters if p.kind in positional),
        defaults=tuple((p.name, p.default) for p in parameters if isinstance(p.default, _PLAIN)),
    )


def leaf_names(in_spec: Any, parameters: Sequence[str]) -> tuple[str, ...]:
    """Return a readable name for each leaf of `(args, kwargs)`: `x`, `images[0]`, `batch['mask']`."""
    positions = pytree.tree_unflatten(list(range(in_spec.num_leaves)), in_spec)
    paths, _ = pytree.tree_flatten_with_path(positions)
    return tuple(_name(path, parameters) for path, _ in paths)


def _name(path: Sequence[Any], parameters: Sequence[str]) -> str:
    key = path[1]
    if path[0].idx == 1:
        return str(key.key) + pytree.keystr(tuple(path[2:]))
    first = parameters[key.idx] if key.idx < len(parameters) else f"args[{key.idx}]"
    return first + pytree.keystr(tuple(path[2:]))
